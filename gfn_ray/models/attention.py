"""A model's attention function: torch's fused one if it computes the same, else the model's own.

transformers defines a family by its eager attention. The fused one (SDPA) is faster and keeps no
scores, but silently drops arguments of a layer that it does not know: a cap on the scores
(Gemma 2), attention sinks (gpt-oss). This module verifies that nothing is dropped.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from gfn_ray.errors import out_of_memory

PROBE = "gfn_ray_probe"  # the attention function in transformers' registry
TOKENS = 12
# Standard deviations of the scores given to both functions, in nats. A model's own may be too small
# for a cap to show; a sink shows only next to small ones.
SPREADS = (1.0, 100.0)
# Largest difference of their outputs, for values with standard deviation 1; in float32, correct
# ones differ by 1e-5.
SAME_OUTPUT = 1e-3
# Largest total variation between next tokens from two forward passes. In full precision, correct
# log-probabilities differ by at most 1e-4 nats. At half precision, correct passes differ by .05 on
# a real model, one with a wrong mask by .47 or more (measured on SmolLM2-135M in bfloat16).
AGREEMENT = {torch.float64: 1e-3, torch.float32: 1e-3}
AGREEMENT_OF_HALVES = 0.2


class _AnotherAttention(Exception):
    """A layer's attention differs from the fused function."""


def fuse_attention(model: Any) -> None:
    """Switches a model loaded with eager attention to the fused function, if every layer's
    output and the whole model's output on a short text stay the same."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if not (model._supports_sdpa and model._can_set_attn_implementation()):
        return
    AttentionInterface.register(PROBE, _probe)
    AttentionMaskInterface.register(PROBE, sdpa_mask)
    own = _logits(model)
    model.set_attn_implementation(PROBE)
    try:
        same = agree(_logits(model), own)
    except (_AnotherAttention, TypeError, ValueError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        same = False
    model.set_attn_implementation("sdpa" if same else "eager")


def agree(logits: Tensor, others: Tensor) -> bool:
    """Whether two forward passes give the same next-token logits [..., V], up to rounding."""
    apart = (logits.float().softmax(-1) - others.float().softmax(-1)).abs().sum(-1).max() / 2
    return bool(apart < AGREEMENT.get(logits.dtype, AGREEMENT_OF_HALVES))


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    size = model.config.get_text_config().vocab_size
    # Ordinary tokens: the first ids are a tokenizer's special tokens.
    ids = torch.arange(TOKENS) * (size // (2 * TOKENS)) + size // 3
    device = next(model.parameters()).device
    logits: Tensor = model(input_ids=ids[None].to(device), use_cache=False).logits
    return logits


def _probe(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **more: Any
) -> tuple[Tensor, None]:
    """The fused function. Raises _AnotherAttention if the layer's own differs."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    # The module in which its family defines eager attention.
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if own is None:
        raise _AnotherAttention
    length = query.shape[2]
    causal = query.new_full((length, length), torch.finfo(torch.float32).min, dtype=torch.float32)
    causal = causal.triu(1)[None, None]
    random = torch.Generator(query.device).manual_seed(0)
    q, k, v = (
        torch.randn(each.shape, generator=random, device=each.device)
        for each in (query, key, value)
    )
    wide = {name: _wide(argument) for name, argument in more.items()}
    scaling = more.get("scaling") or query.shape[-1] ** -0.5
    for spread in SPREADS:
        scaled = q * (spread / (scaling * query.shape[-1] ** 0.5))
        found, meant = (
            attend(module, scaled, k, v, causal, **wide)[0]
            for attend in (sdpa_attention_forward, own)
        )
        if not (found - meant).abs().max() < SAME_OUTPUT:
            raise _AnotherAttention
    return sdpa_attention_forward(module, query, key, value, attention_mask, **more)


def _wide(argument: Any) -> Any:
    of_numbers = isinstance(argument, Tensor) and argument.is_floating_point()
    return argument.float() if of_numbers else argument
