"""The original study's published numbers: as facts, as files to fetch, as a schema to write. No torch."""
