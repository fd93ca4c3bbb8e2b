"""facespec."""
