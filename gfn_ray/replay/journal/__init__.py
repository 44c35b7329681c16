"""Replay that outlives its process: what was acknowledged survives a kill."""
