"""The missing sentence of a story."""
