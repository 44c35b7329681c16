"""Gradients and other numbers of a batch, summed over its chunks and over all learners.

One flat buffer carries a chunk's gradients and numbers, and every sum is taken along the tree of
recursive halves that `ranks` describes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gfn_ray.learners.ranks import Ranks, share
from gfn_ray.learners.shards import FREE, Free, Lockstep

Learn = Callable[[int, Tensor], None]
"""Runs the backward pass of a chunk, by its index; writes its numbers into a tensor of zeros."""


class GradientSum:
    """parameters: those whose gradients are summed, all of one dtype and on one device."""

    def __init__(self, parameters: Sequence[nn.Parameter], ranks: Ranks) -> None:
        if len({(p.dtype, p.device) for p in parameters}) > 1:
            raise ValueError("the trained parameters are not all of one dtype and on one device")
        self._parameters = list(parameters)
        self._sizes = [p.numel() for p in parameters]
        self._ranks = ranks

    def over(
        self, chunks: int, numbers: int, learn: Learn, lockstep: Lockstep | Free = FREE
    ) -> Tensor:
        """Runs `learn` for each of this rank's chunks. Returns the sum over all chunks of the
        numbers [numbers] and leaves the gradients' sum in the parameters."""
        mine = share(chunks, self._ranks.rank, self._ranks.count)
        total = self._node(mine.start, mine.stop, numbers, learn)
        lockstep.finish()
        self._ranks.add_up(total)
        self._lay_gradients_into(total)
        return total[sum(self._sizes) :]

    def _node(self, first: int, last: int, numbers: int, learn: Learn) -> Tensor:
        if last - first > 1:
            middle = (first + last) // 2
            left = self._node(first, middle, numbers, learn)
            return left.add_(self._node(middle, last, numbers, learn))
        # Zeros, also for a node without chunks: nothing is ever -0.0, which would not stay so.
        leaf = torch.zeros(
            sum(self._sizes) + numbers,
            dtype=self._parameters[0].dtype,
            device=self._parameters[0].device,
        )
        self._lay_gradients_into(leaf)
        if last > first:
            learn(first, leaf[sum(self._sizes) :])
        return leaf

    def _lay_gradients_into(self, buffer: Tensor) -> None:
        pieces = buffer[: sum(self._sizes)].split(self._sizes)
        for parameter, piece in zip(self._parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)
