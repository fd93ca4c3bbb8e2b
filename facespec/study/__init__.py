"""What every room stands on: words, parameters, paths, randomness, tables and safe files. No torch."""
