"""Amortized posterior inference in language models, distributed on Ray."""

__version__ = "0.1.0"
