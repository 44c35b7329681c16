"""Batches of likelihood updates: every item once a pass, in an order that a seed decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def shuffled_batches(
    items: Sequence[Item], size: int, seed: int | Sequence[int]
) -> Iterator[list[Item]]:
    """Batches from endless shuffled passes; one may span the end of a pass."""
    rng = np.random.default_rng(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting.extend(rng.permutation(len(items)).tolist())
        batch, waiting = waiting[:size], waiting[size:]
        yield [items[i] for i in batch]
