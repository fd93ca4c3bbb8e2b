"""Fitting a network to labelled faces: batches, learning rates, epochs, and continuing after an interruption."""
