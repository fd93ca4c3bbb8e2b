"""What do all other rooms build on? Vocabulary, parameters, paths, random streams, tables, safe files. No torch."""
