"""The embedded faces: a parametric face renderer that fills all three roles on any machine, without a download."""
