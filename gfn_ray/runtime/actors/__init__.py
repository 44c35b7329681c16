"""The actors of a run: what each does, and how they are started together."""
