"""Batches of likelihood updates: every item once per pass, in an order set by a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from gfn_ray.seeds import Seed, generator

Item = TypeVar("Item")


def shuffled_batches(items: Sequence[Item], size: int, seed: Seed) -> Iterator[list[Item]]:
    """Yields batches from endless shuffled passes; a batch may span two passes."""
    rng = generator(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting.extend(rng.permutation(len(items)).tolist())
        batch, waiting = waiting[:size], waiting[size:]
        yield [items[i] for i in batch]
