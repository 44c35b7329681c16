"""The next sentence."""
