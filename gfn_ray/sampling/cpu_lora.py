"""LoRA matrix products for vLLM on CPU: one dense product per adapter slot.

The stock CPU kernels copy an adapter's weights once for every token, and read "no
adapter" (slot -1) as the last slot. These four replacements multiply all rows by each
slot and mask the others, which is faster for the one slot used here and right for rows
without an adapter. They stand in for functions of the same names in vLLM's CPU wrapper.
"""

from __future__ import annotations

from typing import Any

import torch
import vllm
from torch import Tensor

from gfn_ray.sampling.adapter_swap import TESTED_VERSIONS


def install() -> bool:
    """Replaces the kernels in this process; False, and no change, on an untested vLLM."""
    if not vllm.__version__.startswith(TESTED_VERSIONS):
        return False
    from vllm.lora.punica_wrapper import punica_cpu

    for function in (bgmv_shrink, bgmv_expand_slice, sgmv_shrink, sgmv_expand_slice):
        setattr(punica_cpu, function.__name__, function)
    return True


def bgmv_shrink(
    inputs: Tensor, weights: Tensor, output: Tensor, slots: Tensor, scaling: float = 1.0
) -> None:
    """output[:, :r] = scaling * inputs @ A^T, with each row's own A; slots [rows]."""
    product = _per_slot(inputs, weights, slots, output.dtype)
    output[:, : product.shape[1]] = product * scaling


def bgmv_expand_slice(
    inputs: Tensor,
    weights: Tensor,
    output: Tensor,
    slots: Tensor,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,
) -> None:
    """output[:, slice] (+)= inputs @ B^T, with each row's own B."""
    product = _per_slot(inputs, weights, slots, output.dtype)
    target = output[:, slice_offset : slice_offset + slice_size]
    if add_inputs:
        target += product
    else:
        target.copy_(product)


def sgmv_shrink(
    inputs: Tensor,
    weights: Tensor,
    output: Tensor,
    starts: Tensor,
    lengths: Tensor,
    slots: Tensor,
    batches: int,
    longest: int,
    tokens: int,
    scaling: float,
) -> None:
    """bgmv_shrink for prompts: slots [sequences], lengths [sequences] in tokens."""
    bgmv_shrink(inputs, weights, output, torch.repeat_interleave(slots, lengths), scaling)


def sgmv_expand_slice(
    inputs: Tensor,
    weights: Tensor,
    output: Tensor,
    starts: Tensor,
    lengths: Tensor,
    slots: Tensor,
    batches: int,
    longest: int,
    tokens: int,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = False,
) -> None:
    """bgmv_expand_slice for prompts."""
    rows = torch.repeat_interleave(slots, lengths)
    bgmv_expand_slice(inputs, weights, output, rows, slice_offset, slice_size, add_inputs)


def _per_slot(inputs: Tensor, weights: Tensor, slots: Tensor, dtype: Any) -> Tensor:
    """inputs [rows, in] times weights [slots, (1,) out, in] of each row's slot; 0 at slot -1."""
    if weights.dim() == 4:
        weights = weights.squeeze(dim=1)
    inputs = inputs.to(dtype)
    product = inputs.new_zeros(len(inputs), weights.shape[1])
    for slot, matrix in enumerate(weights):
        own = (slots == slot).to(dtype)[:, None]
        # The mask goes on the narrow side, which is the rank in one of the two products.
        if matrix.shape[0] < matrix.shape[1]:
            product += own * (inputs @ matrix.to(dtype).T)
        else:
            product.addmm_(own * inputs, matrix.to(dtype).T)
    return product
