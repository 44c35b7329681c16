"""Similarity of texts to a reference and to each other."""
