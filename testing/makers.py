"""Random queries and trajectories over a tiny model's vocabulary."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gfn_ray.support import BoundedSupport, Support
from gfn_ray.tasks.demonstrations import demonstration_trajectory
from gfn_ray.trajectory import IntArray, Query, Trajectory

VOCAB = 300


def make_support(min_len: int = 2, max_len: int = 6, vocab_size: int = VOCAB) -> BoundedSupport:
    """Content 10.. (a third of it enders), openings even; stop tokens 2 and 3."""
    ids = np.arange(vocab_size)
    content = ids >= 10
    return BoundedSupport(
        content=content,
        opening=content & (ids % 2 == 0),
        enders=content & (ids % 3 == 0),
        stop_ids=np.array([2, 3], dtype=np.int32),
        min_len=min_len,
        max_len=max_len,
    )


def same_support(one: Support, other: Support) -> bool:
    names = type(one).__dataclass_fields__
    return type(one) is type(other) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in names
    )


def random_ids(rng: np.random.Generator, length: int, vocab_size: int = VOCAB) -> IntArray:
    return rng.integers(10, vocab_size, length).astype(np.int32)


def random_query(rng: np.random.Generator, name: str, prompt_length: int = 11) -> Query:
    return Query(
        query_id=name,
        prompt_ids=random_ids(rng, prompt_length),
        context_ids=random_ids(rng, 7),
        answer_ids=random_ids(rng, 4),
    )


def random_z(rng: np.random.Generator, support: BoundedSupport) -> IntArray:
    """A z of uniformly drawn legal tokens."""
    tokens: list[int] = []
    while True:
        row = support.mask_row(len(tokens), tokens[-1] if tokens else None)
        token = int(rng.choice(np.flatnonzero(support.masks[row])))
        if token in support.stop_ids:
            return np.array(tokens, dtype=np.int32)
        tokens.append(token)


def make_trajectory(support: Support, query_id: str, tokens: IntArray) -> Trajectory:
    known = demonstration_trajectory(query_id, tokens, support)
    return replace(known, policy_version=0, proposal="policy")


def random_trajectories(
    rng: np.random.Generator, support: Support, query_id: str, count: int
) -> list[Trajectory]:
    return [make_trajectory(support, query_id, random_z(rng, support)) for _ in range(count)]
