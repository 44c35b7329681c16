"""LoRA matrix products for vLLM on CPU: two dense products per adapter and layer.

The stock CPU kernels copy an adapter's weights once per token, and treat "no adapter" (slot -1) as
the last slot. This replacement multiplies the rows of the whole batch and masks those of other
slots, if any; the engine has one slot, and all its rows use it.
"""

from __future__ import annotations

from typing import Any

import vllm
from torch import Tensor

from gfn_ray.sampling.weights.swap import TESTED_VERSIONS


def install() -> bool:
    """Replaces the kernel of linear layers in this process. On an untested vLLM, changes nothing
    and returns False."""
    if not vllm.__version__.startswith(TESTED_VERSIONS):
        return False
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    PunicaWrapperCPU.add_lora_linear = add_lora_linear
    return True


def add_lora_linear(
    self: Any,
    y: Tensor,
    x: Tensor,
    lora_a_stacked: tuple[Tensor, ...],
    lora_b_stacked: tuple[Tensor, ...],
    scale: float,
    output_slices: tuple[int, ...],
    **_: Any,
) -> None:
    """y[:, slice] += scale * x @ A^T @ B^T in each slice of a fused layer, with A and B by row.

    self: vLLM's wrapper, which knows the slot of each row. x [rows, in]; y [rows, out], changed in
    place; A [slots, 1, r, in] and B [slots, 1, slice, r], one pair per slice.
    """
    slot_of_row = self.token_lora_indices
    for slot in range(lora_a_stacked[0].shape[0]):
        own = slot_of_row == slot
        everyone = bool(own.all())
        if not everyone and not own.any():
            continue
        start = 0
        for a, b, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            low = x @ a[slot, 0].T
            if not everyone:
                low *= own[:, None]
            y[:, start : start + size].addmm_(low, b[slot, 0].T, alpha=scale)
            start += size
