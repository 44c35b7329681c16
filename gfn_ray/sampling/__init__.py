"""Trajectories from a vLLM engine: exploration, the support, and adapter swaps."""
