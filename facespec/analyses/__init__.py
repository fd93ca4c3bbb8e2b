"""One scientific question per file: arrays and tables in, a table out. No disk, no prints."""
