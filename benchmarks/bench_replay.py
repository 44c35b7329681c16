"""Figures of the replay buffer, in this process and through its actor, with 200,000 trajectories.

The plain way is a list, a set of what is in it, and numpy's weighted choice over all of it. Rates
in this process are of CPU time, those through Ray of the clock on the wall.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import ray

from gfn_ray.config import ReplayConfig
from gfn_ray.replay.buffer import ReplayBuffer
from gfn_ray.replay.columns import from_bytes
from gfn_ray.replay.journal.store import ReplayStore
from gfn_ray.runtime.actors.replay_actor import ReplayActor
from gfn_ray.runtime.resources.cluster import connected
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.trajectory import Trajectory
from measure import Figure, side_by_side

STORED = 200_000
PER_QUERY = 64
CALL = 64  # trajectories in one add, and in one batch
QUERIES = 8  # in one batch
UNDER_WAY = 4  # calls of the actor that nobody has read yet, so that it need not wait for readers


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


def fill(add: Callable[[list[Trajectory]], object]) -> None:
    source = trajectories(seed=0)
    for _ in range(STORED // CALL):
        add(list(islice(source, CALL)))


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


class PlainActor:
    """The same in a process of its own; a batch goes out as a list of records."""

    def __init__(self, alpha: float) -> None:
        self._replay = PlainReplay(alpha)
        fill(self._replay.add)

    def sample(self, count: int) -> list[dict[str, Any]]:
        return [one.to_wire() for one in self._replay.sample(count)]


def settings() -> ReplayConfig:
    return ReplayConfig(capacity=STORED, per_query=PER_QUERY, max_times_sampled=None)


def buffer() -> ReplayBuffer:
    return ReplayBuffer(settings(), seed=0, group=CALL // QUERIES)


def plain() -> PlainReplay:
    return PlainReplay(settings().alpha)


def bytes_each(make: Callable[[], Any]) -> float:
    """What this process grows by, a trajectory, from no buffer at all to a full one."""
    before = _private_bytes()
    replay = make()
    fill(replay.add)
    return (_private_bytes() - before) / STORED


def _private_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel does not tell RssAnon")


class ReplayBench:
    """Both sides full, so that every add displaces something."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._source = trajectories(seed=1)

    def figures(self) -> dict[str, Callable[[], Figure]]:
        return {
            "replay, adds": self.adds,
            "replay, batches": self.batches,
            "replay, batches through Ray": self.batches_through_ray,
            "replay, bytes a trajectory": self.memory,
        }

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
            partial(self._rate, lambda: self._ours.sample(QUERIES, CALL // QUERIES, 0), 500),
            partial(self._rate, lambda: self._plain.sample(CALL), 10),
            rounds=self._rounds,
            unit="batches/s",
            higher_is_better=True,
        )

    def batches_through_ray(self) -> Figure:
        """Batches of 64 a second that the actor draws and this process reads."""
        job = InfillJob(replay=settings())
        with connected(), TemporaryDirectory() as directory:
            place = Path(directory) / "replay"
            group = job.learner.trajectories_per_query
            store = ReplayStore(place, job.replay, job.seed, group=group)
            fill(store.add)
            store.close()
            ours = ray.remote(ReplayActor).remote(job, place)
            other = ray.remote(PlainActor).remote(job.replay.alpha)
            ray.get(ours.load.remote())

            def ask_ours() -> Any:
                return ours.sample.options(num_returns=2).remote(QUERIES, CALL // QUERIES, 0)

            def read_ours(answer: Any) -> list[Trajectory]:
                batch, _ = ray.get(answer)
                return from_bytes(batch)

            def read_other(answer: Any) -> list[Trajectory]:
                return [Trajectory.from_wire(one) for one in ray.get(answer)]

            return side_by_side(
                "replay, batches through Ray",
                partial(self._calls, ask_ours, read_ours, 300),
                partial(self._calls, lambda: other.sample.remote(CALL), read_other, 30),
                rounds=self._rounds,
                unit="batches/s",
                higher_is_better=True,
            )

    def memory(self) -> Figure:
        """Bytes that a process grows by for each stored trajectory, indices and all."""
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as fresh:
            return side_by_side(
                "replay, bytes a trajectory",
                lambda: fresh.apply(bytes_each, (buffer,)),
                lambda: fresh.apply(bytes_each, (plain,)),
                rounds=1,  # it hardly differs from one to the next
                unit="bytes",
            )

    @cached_property
    def _ours(self) -> ReplayBuffer:
        replay = buffer()
        fill(replay.add)
        return replay

    @cached_property
    def _plain(self) -> PlainReplay:
        replay = plain()
        fill(replay.add)
        return replay

    def _adds(self, add: Callable[[list[Trajectory]], object]) -> float:
        calls = iter([list(islice(self._source, CALL)) for _ in range(100)])
        return CALL * self._rate(lambda: add(next(calls)), 100)

    @staticmethod
    def _calls(ask: Callable[[], Any], read: Callable[[Any], object], count: int) -> float:
        under_way = deque(ask() for _ in range(UNDER_WAY))
        started = time.perf_counter()
        for _ in range(count):
            under_way.append(ask())
            read(under_way.popleft())
        taken = time.perf_counter() - started
        ray.get(list(under_way)[-1])  # so that none of them is in the next one's way
        return count / taken

    @staticmethod
    def _rate(
        work: Callable[[], object], count: int, clock: Callable[[], float] = time.process_time
    ) -> float:
        started = clock()
        for _ in range(count):
            work()
        return count / (clock() - started)
