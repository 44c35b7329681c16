"""Base language models: where they come from and how they are loaded.

Provides the embedded model and turns `--model.name` into a tokenizer and a frozen
causal LM. Knows nothing about prompts or rewards.
"""
