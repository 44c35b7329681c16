"""The actors of a run: what each does, how they are called, and how they are restarted."""
