"""Block-sparse attention over packed prefix trees, for CUDA: skips blocks that are masked out.

A dense mask costs the square of the nodes, and most of that square is one tree against another.
FlexAttention (Dong et al. 2024) computes it in blocks of 128 by 128 and skips fully masked ones.
This module finds those blocks and passes them to transformers' models.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from gfn_ray.packing.prefix_tree import Spans

SIZE = 128
COMPILED = 128  # compiled versions of attention per process, over all its models
NAME = "gfn_ray_blocks"  # the attention function in transformers' registry


def block_mask(spans: Spans, device: torch.device) -> BlockMask:
    """Returns the mask of the nodes of packed trees as FlexAttention takes it."""
    first, end = (torch.as_tensor(side, device=device) for side in (spans.first, spans.end))

    def sees(_batch: Tensor, _head: Tensor, node: Tensor, other: Tensor) -> Tensor:
        return (first[other] <= first[node]) & (first[node] < end[other])

    # Blocks are judged by the bounds of their nodes' numbers. No pair is missed: if one node sees
    # another, so do the bounds. A block is full only if all of its pairs see each other.
    low, high = _bounds(first)
    shortest, furthest = _bounds(end)
    some = (low[None, :] <= high[:, None]) & (low[:, None] < furthest[None, :])
    full = (high[None, :] <= low[:, None]) & (high[:, None] < shortest[None, :])
    return BlockMask.from_kv_blocks(
        *_listed(some & ~full),
        *_listed(full),
        BLOCK_SIZE=SIZE,
        mask_mod=sees,
        seq_lengths=(len(first), len(first)),
    )


def attend_in_blocks(model: Any) -> None:
    """Makes the model accept a `BlockMask` too. Raises ValueError if its attention function
    cannot be replaced."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    # One version per combination of shapes, precision and gradient. Past the limit torch falls back
    # to uncompiled code with only a warning: ten times slower, and with all scores in memory.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILED)
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    if model.config.get_text_config()._attn_implementation != NAME:
        raise ValueError(f"{type(model).__name__} has no replaceable attention function")


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **more: Any
) -> Any:
    from transformers.integrations.flex_attention import flex_attention_forward
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    in_blocks = isinstance(attention_mask, BlockMask)
    attend = flex_attention_forward if in_blocks else sdpa_attention_forward
    return attend(module, query, key, value, attention_mask, **more)


def _bounds(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Returns minimum and maximum per block of nodes [ceil(L / SIZE)]; the last may be shorter."""
    padding = -len(numbers) % SIZE
    rows = torch.cat([numbers, numbers[-1:].expand(padding)]).view(-1, SIZE)
    return rows.amin(dim=1), rows.amax(dim=1)


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Returns, per row of blocks, how many are set, and their indices before all others."""
    counts = blocks.sum(dim=1, dtype=torch.int32)
    order = torch.argsort(blocks.int(), dim=1, descending=True, stable=True).int()
    return counts[None, None], order[None, None]
