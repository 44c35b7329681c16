"""Figures of the replay buffer, in this process and through its actor, with 200,000 trajectories.

The plain way is a list, a dictionary of what is in it, and numpy's weighted choice over all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from itertools import islice

import numpy as np
from measure import Figure, side_by_side

from gfn_ray.config import ReplayConfig
from gfn_ray.replay.buffer import ReplayBuffer
from gfn_ray.trajectory import Trajectory

STORED = 200_000
PER_QUERY = 64
CALL = 64  # trajectories in one add, and in one batch
QUERIES = 8  # in one batch


def trajectories(seed: int) -> Iterator[Trajectory]:
    """Random z of 4 to 20 tokens, 64 in a row of each query, and scored at every prefix."""
    rng = np.random.default_rng(seed)
    number = 0
    while True:
        size = int(rng.integers(4, 21))
        yield Trajectory(
            query_id=f"query-{number // PER_QUERY % (STORED // PER_QUERY)}",
            token_ids=rng.integers(0, 49_152, size).astype(np.int32),
            tool_mask=np.zeros(size, dtype=np.bool_),
            terminable=np.ones(size + 1, dtype=np.bool_),
            policy_version=number // 1000,
            proposal="policy",
            temperature=1.0,
            epsilon=0.0,
            stopped=True,
            log_reward=rng.normal(-50, 10, size + 1).astype(np.float32),
        )
        number += 1


class PlainReplay:
    """First in, first out, and drawn in proportion to R^alpha over the whole of it."""

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self._stored: list[Trajectory] = []
        self._known: set[tuple[str, bytes]] = set()
        self._rng = np.random.default_rng(0)

    def add(self, new: list[Trajectory]) -> None:
        for one in new:
            key = (one.query_id, one.token_ids.tobytes())
            if key in self._known:
                continue
            self._known.add(key)
            self._stored.append(one)
            if len(self._stored) > STORED:
                old = self._stored.pop(0)
                self._known.discard((old.query_id, old.token_ids.tobytes()))

    def sample(self, count: int) -> list[Trajectory]:
        scores = self._alpha * np.array([one.final_log_reward for one in self._stored])
        weights = np.exp(scores - scores.max())
        chosen = self._rng.choice(len(self._stored), count, False, weights / weights.sum())
        return [self._stored[index] for index in chosen]


class ReplayBench:
    """Both sides full, so that every add displaces something."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._source = trajectories(seed=1)
        self.config = ReplayConfig(capacity=STORED, per_query=PER_QUERY, max_times_sampled=None)

    def figures(self) -> dict[str, Callable[[], Figure]]:
        return {"replay, adds": self.adds, "replay, batches": self.batches}

    def adds(self) -> Figure:
        """Trajectories a second, in calls of 64."""
        return side_by_side(
            "replay, adds",
            partial(self._adds, self._ours.add),
            partial(self._adds, self._plain.add),
            rounds=self._rounds,
            unit="trajectories/s",
            higher_is_better=True,
        )

    def batches(self) -> Figure:
        """Batches of 64 a second: eight of each of eight queries, and 64 of anything."""
        return side_by_side(
            "replay, batches",
            partial(self._batches, lambda: self._ours.sample(QUERIES, CALL // QUERIES, 0), 500),
            partial(self._batches, lambda: self._plain.sample(CALL), 10),
            rounds=self._rounds,
            unit="batches/s",
            higher_is_better=True,
        )

    @cached_property
    def _ours(self) -> ReplayBuffer:
        replay = ReplayBuffer(self.config, seed=0, group=CALL // QUERIES)
        self._fill(replay.add)
        return replay

    @cached_property
    def _plain(self) -> PlainReplay:
        replay = PlainReplay(self.config.alpha)
        self._fill(replay.add)
        return replay

    @staticmethod
    def _fill(add: Callable[[list[Trajectory]], object]) -> None:
        source = trajectories(seed=0)
        for _ in range(STORED // CALL):
            add(list(islice(source, CALL)))

    def _adds(self, add: Callable[[list[Trajectory]], object]) -> float:
        calls = [list(islice(self._source, CALL)) for _ in range(100)]
        started = time.perf_counter()
        for call in calls:
            add(call)
        return CALL * len(calls) / (time.perf_counter() - started)

    @staticmethod
    def _batches(draw: Callable[[], object], count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            draw()
        return count / (time.perf_counter() - started)
