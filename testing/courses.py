"""Random courses of calls to replay, the same from the same seed; stores that crash after them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gfn_ray.config import ReplayConfig
from gfn_ray.replay import ReplayBuffer
from gfn_ray.replay.journal.store import LOG, ReplayStore
from gfn_ray.storage.serialization import pack
from gfn_ray.storage.trajectories import pack_trajectories
from gfn_ray.trajectory import Trajectory

GROUP = 3
NEVER_ROLLS, ROLLS_OFTEN = 2**40, 0  # a log may always grow to its snapshot's size
QUERIES = ["a", "b", "ü/c", "d"]

CONFIGS = (
    ReplayConfig(capacity=12, per_query=5),
    ReplayConfig(
        capacity=9, per_query=9, priority="loss", alpha=1.0, recency=3.0, max_times_sampled=None
    ),
    ReplayConfig(capacity=20, per_query=4, edit_distance=1, max_staleness=3, recency=3.0),
    ReplayConfig(capacity=6, per_query=2, priority="uniform", max_times_sampled=1),
    ReplayConfig(capacity=9, per_query=5, priority="uniform", edit_distance=None),
)


class Replay(Protocol):
    """What a buffer and a store have in common; trajectories come to a store in a block."""

    def add(self, trajectories: Any) -> Any: ...
    def sample(self, queries: int, per_query: int, current_version: int) -> Any: ...
    def update_priorities(self, slots: Any, generations: Any, losses: Any) -> int: ...


def random_trajectory(rng: np.random.Generator, version: int) -> Trajectory:
    """Few queries and tokens, so that duplicates come up; no two fields with the same value."""
    length = int(rng.integers(0, 5))
    terminable = rng.random(length + 1) < 0.5
    terminable[-1] = True
    seed = rng.random() < 0.1
    return Trajectory(
        query_id=str(rng.choice(QUERIES)),
        token_ids=rng.integers(0, 3, length).astype(np.int32),
        tool_mask=rng.random(length) < 0.3,
        terminable=terminable,
        policy_version=-1 if seed else max(0, version - int(rng.integers(0, 4))),
        proposal="seed" if seed else "tempered",
        temperature=float(rng.random()),
        epsilon=float(rng.random()),
        stopped=bool(rng.random() < 0.5),
        sampler_log_pf=rng.normal(np.nan if seed else 0.0, 1.0, length).astype(np.float32),
        sampler_log_stop=float(rng.normal()),
    ).scored(np.where(terminable, rng.normal(size=length + 1) * 10, np.nan))


class Course:
    """Calls one after another; what comes next depends on the seed and on earlier answers."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._version = 0
        self._batches: list[Any] = []

    def step(self, replay: Replay) -> tuple[str, Any]:
        """One call and what it gave back, in a form that can be compared."""
        kind = self._rng.choice(["add", "sample", "update"], p=[0.5, 0.3, 0.2])
        if kind == "add":
            count = int(self._rng.integers(0, 5))
            made = [random_trajectory(self._rng, self._version) for _ in range(count)]
            in_memory = isinstance(replay, ReplayBuffer)
            return "add", replay.add(made if in_memory else pack_trajectories(made))
        if kind == "sample":
            # 150 versions at once move the centre of the masses.
            self._version += int(self._rng.choice([0, 1, 2, 150], p=[0.3, 0.3, 0.3, 0.1]))
            batch = replay.sample(*self._rng.integers(1, 4, size=2).tolist(), self._version)
            if batch is None:
                return "sample", None
            self._batches.append(batch)
            drawn = [pack({"z": one.token_ids, "id": one.query_id}) for one in batch.trajectories]
            return "sample", (drawn, batch.slots.tolist(), batch.generations.tolist())
        if not self._batches:
            return "update", replay.update_priorities([], [], [])
        batch = self._batches[int(self._rng.integers(len(self._batches)))]
        losses = self._rng.exponential(size=len(batch))
        return "update", replay.update_priorities(batch.slots, batch.generations, losses)


def buffer_after(config: ReplayConfig, seed: int, steps: int) -> ReplayBuffer:
    """A buffer that never left memory."""
    buffer, course = ReplayBuffer(config, seed, group=GROUP), Course(seed)
    for _ in range(steps):
        course.step(buffer)
    return buffer


def same(one: ReplayBuffer, other: ReplayBuffer) -> bool:
    return pack(one.state()) == pack(other.state())


def assert_equal(one: ReplayBuffer, other: ReplayBuffer) -> None:
    """Bit for bit; the buffers are used up, for the same draws must follow, too."""
    assert same(one, other)
    assert one.stats() == other.stats()
    first, second = Course(99), Course(99)
    for _ in range(12):
        assert first.step(one) == second.step(other)
    assert same(one, other)


def assert_acknowledged(buffer: ReplayBuffer, config: ReplayConfig, seed: int, calls: int) -> None:
    """The buffer is the one after so many calls of the course, or after the one under way."""
    candidates = [buffer_after(config, seed, calls + under_way) for under_way in (0, 1)]
    equal = [one for one in candidates if same(one, buffer)]
    assert equal, "neither the acknowledged buffer nor the one a call later"
    assert_equal(buffer, equal[0])


def opened(directory: Path, config: ReplayConfig, seed: int = 0, limit: int = 3000) -> ReplayStore:
    return ReplayStore(directory, config, seed, group=GROUP, log_limit=limit, lock_wait=0)


def crashed_after(
    directory: Path, config: ReplayConfig, seed: int, steps: int, limit: int
) -> list[int]:
    """A store left behind after so many calls; the size of its log at first and after each."""
    store, course = opened(directory, config, seed, limit), Course(seed)
    sizes = [log_in(directory).stat().st_size]
    for _ in range(steps):
        course.step(store)
        sizes.append(log_in(directory).stat().st_size)
    store.close()  # writes nothing: only another process could open it otherwise
    return sizes


def restored(directory: Path, config: ReplayConfig, seed: int) -> ReplayBuffer:
    store = opened(directory, config, seed)
    store.close()
    return store.buffer


def log_in(directory: Path) -> Path:
    return directory / LOG
