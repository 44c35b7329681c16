"""Replay that outlives its process: acknowledged calls survive a kill."""
