"""Updates of an adapter: by an objective, by likelihood; their optimizers' state."""
