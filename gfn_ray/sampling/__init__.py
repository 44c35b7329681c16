"""Trajectories of the policy, by vLLM or by transformers: exploration, the support, tools, and
adapter swaps."""
