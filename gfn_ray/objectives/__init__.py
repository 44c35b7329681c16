"""Losses over trajectories: tensors in, tensors out. No models, no Ray."""
