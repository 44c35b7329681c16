"""Updates of an adapter, by an objective or by likelihood, and their optimizers' state."""
