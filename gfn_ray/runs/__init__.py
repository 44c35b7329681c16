"""Everything around a run that needs no Ray: its directory, checkpoints and display; tuning a base
model; comparing finished runs."""
