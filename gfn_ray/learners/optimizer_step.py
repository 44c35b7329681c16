"""One optimizer step, skipped if a number in it is NaN or infinite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn


def optimizer_step(
    optimizer: torch.optim.Optimizer,
    clipped: Sequence[nn.Parameter],
    max_grad_norm: float,
    numbers: Mapping[str, float],
) -> float:
    """Clips the joint gradient of the `clipped` parameters and applies all gradients.

    numbers: must be finite, as must the gradient norm; keys name them in errors. Returns the norm
    before clipping. Raises FloatingPointError, as in "the loss is nan", with parameters and
    optimizer unchanged and the gradients cleared.
    """
    norm = float(torch.nn.utils.clip_grad_norm_(clipped, max_grad_norm))
    for name, value in {**numbers, "the gradient's norm": norm}.items():
        if not math.isfinite(value):
            optimizer.zero_grad(set_to_none=True)
            raise FloatingPointError(f"{name} is {value}")
    optimizer.step()
    return norm
