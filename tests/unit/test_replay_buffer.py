"""What the buffer keeps: it agrees with a brute-force model, call after call."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.config import ReplayConfig
from gfn_ray.replay import AddReport, ReplayBuffer
from gfn_ray.trajectory import Trajectory
from testing.examples import examples

GROUP = 3


def trajectory(
    query: str = "q", tokens: Any = (1, 2), reward: float | None = 0.0, version: int = 0
) -> Trajectory:
    length = len(tokens)
    unscored = Trajectory(
        query_id=query,
        token_ids=np.array(tokens, dtype=np.int32),
        tool_mask=np.zeros(length, dtype=np.bool_),
        terminable=np.arange(length + 1) == length,
        policy_version=version,
        proposal="seed" if version < 0 else "policy",
        temperature=1.0,
        epsilon=0.0,
        stopped=True,
        sampler_log_pf=np.full(length, -1.0, dtype=np.float32),
        sampler_log_stop=-1.0,
    )
    if reward is None:
        return unscored
    return unscored.scored(np.where(unscored.terminable, reward, np.nan))


def buffer(seed: int = 0, group: int = GROUP, **settings: Any) -> ReplayBuffer:
    defaults: dict[str, Any] = {"capacity": 100, "per_query": 50, "max_times_sampled": None}
    return ReplayBuffer(ReplayConfig(**{**defaults, **settings}), seed, group=group)


def tokens_of(replay: ReplayBuffer, query: str = "q") -> list[tuple[int, ...]]:
    return [tuple(one.token_ids.tolist()) for one in replay.trajectories_of(query)]


# The model


@dataclass
class Entry:
    query: str
    tokens: tuple[int, ...]
    reward: float
    version: int
    recency: int
    arrival: int
    loss: float | None = None
    times: int = 0


class Model:
    """The buffer as a list that is searched for every question; exact duplicates only."""

    def __init__(self, config: ReplayConfig) -> None:
        self.config = config
        self.entries: list[Entry] = []
        self.latest: dict[str, int] = {}  # arrival of the newest trajectory of each query
        self.reached: dict[str, int] = {}  # when each query came to its present size
        self.version = self.clock = 0
        self.oldest = -math.inf

    def of(self, query: str) -> list[Entry]:
        return [one for one in self.entries if one.query == query]

    def eligible(self, one: Entry) -> bool:
        limit = self.config.max_times_sampled or math.inf
        return one.times < limit and (one.version == -1 or one.version >= self.oldest)

    def weight(self, one: Entry, others: list[Entry]) -> float:
        """score ** alpha * recency, but for the factor that a query's entries share."""
        largest = max((other.loss for other in others if other.loss is not None), default=0.0)
        score = {
            "uniform": 1.0,
            "log_reward": math.exp(one.reward),
            "loss": (largest if one.loss is None else one.loss) + 1e-3,
        }[self.config.priority]
        return float(score**self.config.alpha * 2 ** (self.config.recency * one.recency))

    def evict(self, query: str) -> None:
        held = self.of(query)
        held = [one for one in held if not self.eligible(one)] or held

        def rank(one: Entry) -> tuple[float, int]:
            return self.weight(one, held), one.arrival

        self.entries.remove(min(held, key=rank))
        self.reached[query] = self.clock

    def victim(self) -> str:
        queries = {one.query for one in self.entries}
        fullest = min(queries, key=lambda q: (-len(self.of(q)), self.reached[q]))
        if len(self.of(fullest)) > GROUP:
            return fullest
        return min(queries, key=lambda q: self.latest[q])

    def add(self, new: Trajectory) -> tuple[bool, bool]:
        """Whether it was a duplicate, and whether something was evicted for it."""
        self.version = max(self.version, new.policy_version)
        recency = self.version if new.policy_version < 0 else new.policy_version
        tokens, evicted = tuple(new.token_ids.tolist()), False
        same = [one for one in self.of(new.query_id) if one.tokens == tokens]
        self.clock += 1
        if same:
            one = same[0]
            one.reward = max(one.reward, new.final_log_reward)
            one.version = max(one.version, new.policy_version)
            one.recency = max(one.recency, recency)
            one.arrival, one.times = self.clock, 0
        else:
            if len(self.of(new.query_id)) >= self.config.per_query:
                self.evict(new.query_id)
                evicted = True
            elif len(self.entries) >= self.config.capacity:
                self.evict(self.victim())
                evicted = True
            self.clock += 1
            self.entries.append(
                Entry(
                    new.query_id,
                    tokens,
                    new.final_log_reward,
                    new.policy_version,
                    recency,
                    self.clock,
                )
            )
            self.reached[new.query_id] = self.clock
        self.latest[new.query_id] = self.clock
        return bool(same), evicted


SETTINGS = st.fixed_dictionaries(
    {
        "capacity": st.integers(1, 14),
        "per_query": st.integers(1, 6),
        "priority": st.sampled_from(["log_reward", "loss", "uniform"]),
        "alpha": st.sampled_from([0.0, 0.5, 1.0]),
        "recency": st.sampled_from([0.0, 0.1, 3.0]),
        "max_staleness": st.sampled_from([None, 0, 2]),
        "max_times_sampled": st.sampled_from([None, 1, 2]),
    }
)
ARRIVALS = st.lists(
    st.builds(
        trajectory,
        query=st.sampled_from("abcde"),
        tokens=st.tuples(st.integers(0, 3), st.integers(0, 1)),
        reward=st.integers(-5, 5).map(float),
        version=st.integers(-1, 6),
    ),
    max_size=10,
)


def check_contents(replay: ReplayBuffer, model: Model) -> None:
    stored = {
        (one.query_id, tuple(one.token_ids.tolist())): (one.final_log_reward, one.policy_version)
        for query in "abcde"
        for one in replay.trajectories_of(query)
    }
    expected = {(one.query, one.tokens): (one.reward, one.version) for one in model.entries}
    assert stored == expected
    stats = replay.stats()
    assert len(replay) == stats["size"] == len(model.entries) <= model.config.capacity
    assert stats["inserted"] - stats["evicted"] == len(replay)
    assert stats["queries"] == len({one.query for one in model.entries})
    times = [one.times for one in model.entries]
    assert stats["max_times_sampled"] == max(times, default=0)
    assert stats["mean_times_sampled"] == pytest.approx(sum(times) / max(len(times), 1))
    assert all(len(replay.trajectories_of(q)) <= model.config.per_query for q in "abcde")


def check_sample(replay: ReplayBuffer, model: Model, data: st.DataObject) -> None:
    queries, per_query = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    current = data.draw(st.integers(0, 8))
    model.version = max(model.version, current)
    if model.config.max_staleness is not None:
        model.oldest = current - model.config.max_staleness
    batch = replay.sample(queries, per_query, current)

    groups: dict[str, list[Entry]] = {}
    for query in "abcde":
        if len(able := [one for one in model.of(query) if model.eligible(one)]) >= 2:
            groups[query] = able
    if not groups:
        assert batch is None
        return
    assert batch is not None
    order = [one.query_id for one in batch.trajectories]
    chosen = list(dict.fromkeys(order))
    assert len(chosen) == min(queries, len(groups))
    assert order == [q for q in chosen for _ in range(min(per_query, len(groups[q])))]
    names = [(one.query_id, tuple(one.token_ids.tolist())) for one in batch.trajectories]
    assert len(set(names)) == len(names)
    sampled = []
    for query, tokens in names:
        (one,) = [one for one in groups[query] if one.tokens == tokens]
        one.times += 1
        sampled.append(one)

    losses = data.draw(st.lists(st.sampled_from([0.0, 0.5, 2.0, 9.0]), max_size=len(names)))
    n = len(losses)
    assert replay.update_priorities(batch.slots[:n], batch.generations[:n], losses) == n
    for one, loss in zip(sampled, losses, strict=False):
        one.loss = loss


@examples(120)
@given(SETTINGS, st.data())
def test_agrees_with_a_brute_force_model_on_any_course(chosen: dict, data: st.DataObject) -> None:
    config = ReplayConfig(**chosen)
    replay, model = ReplayBuffer(config, seed=0, group=GROUP), Model(config)
    for _ in range(data.draw(st.integers(1, 8))):
        if data.draw(st.booleans()):
            check_sample(replay, model, data)
        arrivals = data.draw(ARRIVALS)
        outcomes = [model.add(one) for one in arrivals]
        duplicates = sum(duplicate for duplicate, _ in outcomes)
        evicted = sum(evicted for _, evicted in outcomes)
        assert replay.add(arrivals) == AddReport(len(arrivals) - duplicates, duplicates, evicted)
        check_contents(replay, model)


# Single statements


@pytest.mark.parametrize("reward", [None, np.inf, -np.inf])
def test_an_unscored_trajectory_is_refused_and_nothing_of_its_batch_is_kept(
    reward: float | None,
) -> None:
    replay = buffer()
    with pytest.raises(ValueError):
        replay.add([trajectory(tokens=[1]), trajectory(tokens=[2], reward=reward)])
    assert len(replay) == 0 and replay.stats()["inserted"] == 0


def test_a_trajectory_that_ends_where_it_may_not_end_is_refused() -> None:
    dead_end = trajectory(tokens=[1, 2])
    object.__setattr__(dead_end, "terminable", np.array([False, True, False]))
    with pytest.raises(ValueError, match="ends where it may not stop"):
        buffer().add([dead_end.scored([np.nan, -1.0, np.nan])])


@pytest.mark.parametrize("rewards", [(-1.0, -2.0), (-2.0, -1.0), (-1.0, -1.0)])
def test_a_duplicate_takes_no_slot_and_the_better_reward_is_kept(rewards: tuple) -> None:
    replay = buffer()
    for reward in rewards:
        replay.add([trajectory(reward=reward)])
    (kept,) = replay.trajectories_of("q")
    assert kept.final_log_reward == max(rewards)
    assert replay.stats()["duplicates"] == 1


OF_Z = {"query_id", "token_ids", "tool_mask", "terminable", "log_reward", "stopped"}
OF_SAMPLING = {"policy_version", "proposal", "temperature", "epsilon"}
OF_BOTH = {"sampler_log_pf", "sampler_log_stop"}


def test_every_field_of_a_trajectory_tells_of_z_or_of_how_it_was_sampled() -> None:
    assert {field.name for field in fields(Trajectory)} == OF_Z | OF_SAMPLING | OF_BOTH


@pytest.mark.parametrize("better_is_newer", [True, False])
@pytest.mark.parametrize("better_comes_first", [True, False])
@pytest.mark.parametrize("same_z", [True, False])
@pytest.mark.parametrize("older", [-1, 3])
def test_a_duplicate_is_the_better_z_sampled_as_the_newer_one_was(
    better_is_newer: bool, better_comes_first: bool, same_z: bool, older: int
) -> None:
    better = Trajectory(
        query_id="q",
        token_ids=np.array([1, 2], dtype=np.int32),
        tool_mask=np.array([False, True]),
        terminable=np.array([False, True, True]),
        policy_version=7 if better_is_newer else older,
        proposal="policy",
        temperature=1.0,
        epsilon=0.0,
        stopped=True,
        sampler_log_pf=np.array([-2.0, 0.0], dtype=np.float32),
        sampler_log_stop=-0.5,
        log_reward=np.array([np.nan, -3.0, -1.0], dtype=np.float32),
    )
    worse = Trajectory(
        query_id="q",
        token_ids=np.array([1, 2 if same_z else 9], dtype=np.int32),
        tool_mask=np.array([False, False]),
        terminable=np.array([False, False, True]),
        policy_version=older if better_is_newer else 7,
        proposal="epsilon",
        temperature=1.5,
        epsilon=0.1,
        stopped=False,
        sampler_log_pf=np.array([-4.0, -1.0], dtype=np.float32),
        sampler_log_stop=-0.25,
        log_reward=np.array([np.nan, np.nan, -9.0], dtype=np.float32),
    )
    replay = buffer(edit_distance=1)
    for one in (better, worse) if better_comes_first else (worse, better):
        replay.add([one])
    (kept,) = replay.trajectories_of("q")
    newer = better if better_is_newer else worse
    for name in OF_Z:
        np.testing.assert_array_equal(getattr(kept, name), getattr(better, name), name)
    for name in OF_SAMPLING:
        assert getattr(kept, name) == getattr(newer, name), name
    for name in OF_BOTH:  # log q of this z by this version, if that has written it
        known = newer is better or same_z
        np.testing.assert_equal(getattr(kept, name), getattr(newer, name) if known else np.nan)


def test_without_duplicates_the_shares_of_samples_are_kept() -> None:
    replay = buffer(edit_distance=None, priority="uniform", per_query=10)
    same, other = trajectory("a", [1, 2]), trajectory("a", [3])
    report = replay.add([same, same, other, same])
    assert (report.added, report.duplicates) == (4, 0)
    drawn = replay.sample(1, 4, 0)
    assert sorted(len(t) for t in drawn.trajectories) == [1, 2, 2, 2]


def test_the_same_z_of_two_queries_is_no_duplicate() -> None:
    replay = buffer()
    assert replay.add([trajectory("a"), trajectory("b")]) == AddReport(2, 0, 0)


def test_a_duplicate_found_again_may_be_sampled_again() -> None:
    replay = buffer(max_times_sampled=1)
    both = [trajectory(tokens=[1]), trajectory(tokens=[2])]
    replay.add(both)
    assert replay.sample(1, 2, 0) is not None
    assert replay.sample(1, 2, 0) is None
    replay.add(both)
    assert replay.sample(1, 2, 0) is not None


def test_a_near_duplicate_yields_its_slot_to_the_better_z() -> None:
    replay = buffer(edit_distance=1)
    replay.add([trajectory(tokens=[1, 2, 3], reward=-5.0)])
    assert replay.add([trajectory(tokens=[1, 2, 4], reward=-6.0)]) == AddReport(0, 1, 0)
    assert tokens_of(replay) == [(1, 2, 3)]
    assert replay.add([trajectory(tokens=[1, 2], reward=-4.0)]) == AddReport(0, 1, 0)
    assert tokens_of(replay) == [(1, 2)]
    assert replay.add([trajectory(tokens=[1, 2, 3, 3])]) == AddReport(1, 0, 0)


def test_a_newcomer_is_admitted_whatever_its_weight() -> None:
    replay = buffer(per_query=2, priority="log_reward")
    replay.add([trajectory(tokens=[i], reward=-1.0) for i in range(2)])
    replay.add([trajectory(tokens=[9], reward=-1000.0)])
    assert (9,) in tokens_of(replay)


def test_what_can_no_longer_be_sampled_is_evicted_first() -> None:
    replay = buffer(per_query=3, max_times_sampled=1, priority="log_reward", alpha=1.0)
    replay.add([trajectory(tokens=[1], reward=5.0), trajectory(tokens=[2], reward=5.0)])
    replay.sample(1, 2, 0)
    replay.add([trajectory(tokens=[3], reward=-50.0), trajectory(tokens=[4], reward=-60.0)])
    assert tokens_of(replay) == [(2,), (3,), (4,)]


def test_at_capacity_the_fullest_query_is_thinned() -> None:
    replay = buffer(capacity=10, priority="uniform", recency=0)
    replay.add([trajectory("many", [i]) for i in range(8)])
    replay.add([trajectory("few", [i]) for i in range(4)])
    assert tokens_of(replay, "many") == [(i,) for i in range(2, 8)]
    assert len(replay.trajectories_of("few")) == 4


def test_at_capacity_whole_groups_stay_whole_and_the_longest_idle_query_goes() -> None:
    replay = buffer(capacity=9)
    for query in "abcd":
        replay.add([trajectory(query, [i]) for i in range(GROUP)])
    assert {q: len(replay.trajectories_of(q)) for q in "abcd"} == {"a": 0, "b": 3, "c": 3, "d": 3}


@pytest.mark.parametrize("refill", [False, True])
def test_a_loss_that_comes_late_never_touches_an_evicted_or_overwritten_slot(
    refill: bool,
) -> None:
    replay = buffer(capacity=4, per_query=2, priority="loss", alpha=1.0, recency=0)
    replay.add([trajectory("q", [1]), trajectory("q", [2])])
    batch = replay.sample(1, 2, 0)
    assert batch is not None
    replay.add([trajectory("q", [3])])  # evicts [1] and takes its slot
    late = dict(zip([tuple(t.token_ids) for t in batch.trajectories], range(2), strict=True))
    one = late[(1,)]
    if refill:
        replay.add([trajectory("r", [4])])
    assert replay.update_priorities(batch.slots[[one]], batch.generations[[one]], [1e6]) == 0
    assert replay.update_priorities(batch.slots, batch.generations, [1.0, 1.0]) == 1


def test_a_loss_that_comes_late_never_touches_a_near_duplicate_that_took_the_slot() -> None:
    replay = buffer(edit_distance=1)
    replay.add([trajectory(tokens=[1, 1, 1]), trajectory(tokens=[5, 5, 5])])
    batch = replay.sample(1, 2, 0)
    assert batch is not None
    replay.add([trajectory(tokens=[1, 1, 2], reward=1.0)])
    assert replay.update_priorities(batch.slots, batch.generations, [1.0, 1.0]) == 1


def test_a_loss_stays_with_an_exact_duplicate() -> None:
    replay = buffer(priority="loss")
    replay.add([trajectory(tokens=[1]), trajectory(tokens=[2])])
    batch = replay.sample(1, 2, 0)
    assert batch is not None
    replay.add([trajectory(tokens=[1], reward=1.0)])
    assert replay.update_priorities(batch.slots, batch.generations, [1.0, 1.0]) == 2


def test_a_slot_that_never_held_anything_takes_no_loss() -> None:
    assert buffer().update_priorities([5], [0], [1.0]) == 0
    assert buffer().update_priorities([], [], []) == 0


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_loss_that_is_no_number_is_refused(loss: float) -> None:
    replay = buffer()
    replay.add([trajectory()])
    with pytest.raises(ValueError, match="NaN or infinite"):
        replay.update_priorities([0], [0], [loss])


def test_arrays_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        buffer().update_priorities([0, 1], [0], [1.0])


def test_stats_of_an_empty_buffer_are_zero() -> None:
    assert set(buffer().stats().values()) == {0.0}


def test_stats_tell_the_mean_length() -> None:
    replay = buffer()
    replay.add([trajectory(tokens=[1]), trajectory(tokens=[1, 2, 3])])
    assert replay.stats()["mean_length"] == 2.0


GROWTH = """
import numpy as np
from gfn_ray.config import ReplayConfig
from gfn_ray.replay import ReplayBuffer
from gfn_ray.storage.trajectories import from_columns, to_columns
from test_replay_buffer import trajectory

def private():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

one = [trajectory(query=f"query-{i:06}", tokens=range(12)) for i in range(20)]
columns, rng, before = to_columns(one), np.random.default_rng(0), private()
replay = ReplayBuffer(ReplayConfig(capacity=40_000), seed=0)
for first in range(0, 2000):
    columns["token_ids"] = rng.integers(0, 50_000, 20 * 12).astype(np.int32)
    columns["query_id"] = [f"query-{first // 3:06}"] * 20
    replay.add(from_columns(columns))
assert len(replay) == 40_000
print((private() - before) / 40_000, replay.stats()["bytes_per_trajectory"])
"""


def test_a_process_grows_by_what_is_told_of_memory() -> None:
    """In a process of its own: what other tests have freed here would be used first."""
    here = Path(__file__)
    paths = [str(here.parent), str(here.parents[2])]
    done = subprocess.run(
        [sys.executable, "-c", GROWTH],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    grown, told = map(float, done.stdout.split())
    assert told == pytest.approx(grown, rel=0.25)
