"""What a run writes and leaves, and what can be done with it without Ray: its directory, its
checkpoints, its display; tuning a base; comparing finished runs."""
