"""Responses of a network's layers to images: recorded, pooled, ranked, or computed with units lesioned."""
