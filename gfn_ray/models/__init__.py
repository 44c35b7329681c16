"""Base language models: where they come from and how they are loaded.

Owns the embedded model and the way from `--model.name` to a tokenizer and a frozen
causal LM. Knows nothing of adapters, prompts or rewards.
"""
