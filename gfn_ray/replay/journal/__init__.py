"""Replay on record: what was acknowledged survives a kill."""
