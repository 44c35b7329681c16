"""Batches of likelihood updates: every item once a pass, in an order that a seed decides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from gfn_ray.seeds import Seed, generator

Item = TypeVar("Item")


def shuffled_batches(items: Sequence[Item], size: int, seed: Seed) -> Iterator[list[Item]]:
    """Batches from endless shuffled passes; one may span the end of a pass."""
    rng = generator(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting.extend(rng.permutation(len(items)).tolist())
        batch, waiting = waiting[:size], waiting[size:]
        yield [items[i] for i in batch]
