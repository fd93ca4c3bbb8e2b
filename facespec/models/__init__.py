"""Networks that answer expression, identity or both; their layers by name; their checkpoints; where they run."""
