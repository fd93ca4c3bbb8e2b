"""Thin doors between DVC and the rooms: read, call, write. One module per stage, each with a `run`."""
