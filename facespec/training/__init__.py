"""Fitting a network to labelled faces: batches, rates, epochs, and going on after an interruption."""
