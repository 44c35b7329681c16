"""Rounding of weights to bfloat16 that keeps small changes in the mean."""

from __future__ import annotations

import torch
from torch import Tensor

_LOST_BITS = 16  # bits of a float32 that a bfloat16 lacks


def stochastically_rounded(x: Tensor, rng: torch.Generator) -> Tensor:
    """Rounds float32 to one of the two neighbours in bfloat16, by chance, so that the mean is x.

    An adapter's change of a weight is often less than half a step of bfloat16. The nearest
    neighbour would be the old weight again, and the sum over thousands of weights would be lost.
    """
    step = 1 << _LOST_BITS
    noise = torch.randint(0, step, x.shape, generator=rng, device=x.device, dtype=torch.int32)
    bits = (x.contiguous().view(torch.int32) + noise) & -step
    return bits.view(torch.float32).to(torch.bfloat16)
