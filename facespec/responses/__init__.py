"""What a network's layers answer to faces, whole or lesioned."""
