"""Faces and labels: adapters turn files into FaceSets; splits and batches turn those into what a network sees."""
