"""Settings of small models, a family each, and such models with random weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 97
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
GPT_NEO = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_hidden_layers": 2,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 1]],
    "max_position_embeddings": 64,
}
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
PACKED = {
    "llama": LLAMA,
    "qwen2": LLAMA,
    "qwen3": {**LLAMA, "head_dim": 8},
    "mistral": {**LLAMA, "sliding_window": None},
    "gpt2": GPT,
    "gptj": {**GPT, "rotary_dim": 8},
    "gpt_neox": {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"},
    "opt": {**LLAMA, "ffn_dim": 64, "word_embed_proj_dim": 32},
}
GEMMA = {**LLAMA, "head_dim": 8}
# Models whose attention is not what torch's fused one computes.
OF_THEIR_OWN = {
    "gemma2": {**GEMMA, "num_hidden_layers": 1, "attn_logit_softcapping": 50.0},  # caps its scores
    "vaultgemma": {**GEMMA, "attn_logit_softcapping": 50.0},
    "gpt_oss": {**GEMMA, "num_local_experts": 2, "num_experts_per_tok": 1},  # attention sinks
}
BY_PATH = {
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2},
}


def random_model(kind: str, **settings: Any) -> Any:
    """In eval mode, float32, with weights that are large enough for a mistake to show."""
    config = AutoConfig.for_model(
        kind, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, pad_token_id=0, **settings
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)  # away from uniform: a wrong history has to show
    return model
