"""Data sets: read, checked and split. Knows nothing of tokens, prompts or models."""
