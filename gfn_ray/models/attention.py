"""By which function a model attends: torch's fused one where that is the model's own, else its own.

transformers defines a family by its eager attention. The fused one (SDPA) is faster and keeps no
scores, but takes what it knows of a layer's arguments and silently drops the rest: a cap on the
scores (Gemma 2), attention sinks (gpt-oss). Owns the proof that nothing is dropped.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from gfn_ray.errors import out_of_memory

PROBE = "gfn_ray_probe"  # of the attention function, in transformers' registry
TOKENS = 12
# Standard deviations of the scores that both functions are given, in nats. A model's own may be too
# small for a cap to show; a sink shows only beside small ones.
SPREADS = (1.0, 100.0)
# Most that their outputs may differ, of values with standard deviation 1; in float32, right ones
# are 1e-5 apart.
SAME_OUTPUT = 1e-3
# Most total variation between next tokens read in two ways. In full precision log-probabilities
# read in two right ways are 1e-4 nats apart at most. At half precision two right ways are .05 apart
# on a real model, one that overlooks who sees whom .47 and more (measured on SmolLM2-135M in
# bfloat16).
AGREEMENT = {torch.float64: 1e-3, torch.float32: 1e-3}
AGREEMENT_OF_HALVES = 0.2


class _AnotherAttention(Exception):
    """A layer does not attend as the fused function does."""


def fuse_attention(model: Any) -> None:
    """From now on a model that is loaded with eager attention attends by the fused function, if
    every layer's own gives the same, and the whole model on a short text."""
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
    """Whether two ways to read the same next tokens [..., V] are both right, or both wrong."""
    apart = (logits.float().softmax(-1) - others.float().softmax(-1)).abs().sum(-1).max() / 2
    return bool(apart < AGREEMENT.get(logits.dtype, AGREEMENT_OF_HALVES))


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    size = model.config.get_text_config().vocab_size
    # Ordinary tokens: the first are a tokenizer's special ones.
    ids = torch.arange(TOKENS) * (size // (2 * TOKENS)) + size // 3
    device = next(model.parameters()).device
    logits: Tensor = model(input_ids=ids[None].to(device), use_cache=False).logits
    return logits


def _probe(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **more: Any
) -> tuple[Tensor, None]:
    """The fused function. Raises _AnotherAttention where the layer's own is another."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    # Where its family keeps the function that eager stands for.
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
