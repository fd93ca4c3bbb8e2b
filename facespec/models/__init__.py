"""Networks with a head per task, their layers by name, their checkpoints, and the device they run on."""
