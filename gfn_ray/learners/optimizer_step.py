"""One step of an optimizer, which is none where a number in it is NaN or infinite."""

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
    """Clips the gradients of some of the optimizer's parameters together, and applies all.

    numbers: that must be finite, by what errors call them; the norm of the gradients is another.
    Returns that norm, before clipping. Raises FloatingPointError, as in "the loss is nan", with
    parameters and optimizer as they were and no gradients left.
    """
    norm = float(torch.nn.utils.clip_grad_norm_(clipped, max_grad_norm))
    for name, value in {**numbers, "the gradient's norm": norm}.items():
        if not math.isfinite(value):
            optimizer.zero_grad(set_to_none=True)
            raise FloatingPointError(f"{name} is {value}")
    optimizer.step()
    return norm
