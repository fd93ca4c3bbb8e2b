"""Tables in, Axes out. No torch, no analysis."""
