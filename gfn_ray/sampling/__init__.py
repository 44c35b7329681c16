"""Samples trajectories from the policy with vLLM or transformers: exploration, the support, tools
and adapter swaps."""
