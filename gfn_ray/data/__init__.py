"""Data sets: reading, checking and splitting. Independent of tokens, prompts and models."""
