"""How the buffer samples: frequencies follow weights, gates hold, seeds decide everything."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.config import ReplayConfig
from gfn_ray.replay import ReplayBatch, ReplayBuffer
from gfn_ray.trajectory import Trajectory
from testing.examples import examples

DRAWS = 2000


def trajectory(query: str, token: int, reward: float = 0.0, version: int = 0) -> Trajectory:
    return Trajectory(
        query_id=query,
        token_ids=np.array([token], dtype=np.int32),
        tool_mask=np.array([False]),
        terminable=np.array([False, True]),
        policy_version=version,
        proposal="policy",
        temperature=1.0,
        epsilon=0.0,
        stopped=True,
        sampler_log_pf=np.array([-1.0], dtype=np.float32),
        sampler_log_stop=-1.0,
        log_reward=np.array([np.nan, reward], dtype=np.float32),
    )


def buffer(seed: int = 0, **settings: Any) -> ReplayBuffer:
    defaults: dict[str, Any] = {"capacity": 100, "per_query": 50, "max_times_sampled": None}
    return ReplayBuffer(ReplayConfig(**{**defaults, **settings}), seed)


def names(batch: ReplayBatch | None) -> list[tuple[str, int]]:
    assert batch is not None
    return [(one.query_id, int(one.token_ids[0])) for one in batch.trajectories]


def assert_frequencies(counts: Counter, expected: dict[Any, float]) -> None:
    """Pearson's statistic within 5 standard deviations of its mean under the hypothesis."""
    assert set(counts) <= set(expected)
    total, draws = sum(expected.values()), sum(counts.values())
    statistic = sum(
        (counts[key] - draws * p / total) ** 2 / (draws * p / total) for key, p in expected.items()
    )
    freedom = len(expected) - 1
    assert statistic < freedom + 5 * np.sqrt(2 * freedom), f"{statistic} at {freedom} degrees"


REWARDS = {"a": [-50.0, -51.0, -53.0], "b": [-10.0, -10.5], "c": [-1.0, -3.0, -3.0, -2.0, -4.0]}
VERSIONS = {"a": [0, 3, 3], "b": [1, 2], "c": [3, 3, 0, 1, 2]}
LOSSES = {"a": [0.1, 4.0, 2.0], "b": [1.0, 1.0], "c": [0.0, 3.0, 0.5, 0.5, 9.0]}


def weights(priority: str, query: str, alpha: float, recency: float) -> np.ndarray:
    rewards = np.array(REWARDS[query])
    score = {
        "uniform": np.ones(len(rewards)),
        "log_reward": np.exp(rewards - rewards.max()),
        "loss": np.array(LOSSES[query]) + 1e-3,
    }[priority]
    return score**alpha * 2 ** (recency * np.array(VERSIONS[query]))


def three_queries(priority: str, alpha: float, recency: float) -> ReplayBuffer:
    replay = buffer(priority=priority, alpha=alpha, recency=recency)
    for query, rewards in REWARDS.items():
        versions = VERSIONS[query]
        replay.add([trajectory(query, i, r, versions[i]) for i, r in enumerate(rewards)])
    batch = replay.sample(3, 50, 3)
    losses = [LOSSES[query][token] for query, token in names(batch)]
    assert batch is not None
    replay.update_priorities(batch.slots, batch.generations, losses)
    return replay


@pytest.mark.parametrize("priority", ["uniform", "log_reward", "loss"])
def test_frequencies_follow_query_mass_times_weight(priority: str) -> None:
    alpha, recency = 0.5, 0.4
    replay = three_queries(priority, alpha, recency)
    expected = {}
    for query in REWARDS:
        w = weights(priority, query, alpha, recency)
        for token, share in enumerate(w / w.sum()):
            expected[query, token] = 2 ** (recency * max(VERSIONS[query])) * share
    counts = Counter(names(replay.sample(1, 1, 3))[0] for _ in range(DRAWS))
    assert_frequencies(counts, expected)


def test_within_a_query_the_draw_is_weighted_and_without_replacement() -> None:
    replay = buffer(priority="log_reward", alpha=1.0, recency=0)
    logs = np.log([4.0, 2.0, 1.0, 1.0])
    replay.add([trajectory("q", i, r) for i, r in enumerate(logs)])
    w = np.exp(logs) / np.exp(logs).sum()
    expected = {(i, j): w[i] * w[j] / (1 - w[i]) for i, j in permutations(range(4), 2)}
    counts = Counter(
        tuple(token for _, token in names(replay.sample(1, 2, 0))) for _ in range(DRAWS)
    )
    assert_frequencies(counts, expected)


# Of two queries: how many z each holds, and the standard deviation and mean of their log R.
UNLIKE = {
    "number": ((64, 8.0, 0.0), (8, 8.0, 0.0)),
    "spread": ((32, 8.0, 0.0), (32, 1.0, 0.0)),
    "level": ((16, 4.0, -500.0), (16, 4.0, 0.0)),
    "all three": ((64, 12.0, -90.0), (2, 0.5, 0.0)),
}


@pytest.mark.parametrize("alpha", [0.25, 2.0])
@pytest.mark.parametrize("priority", ["uniform", "log_reward", "loss"])
@pytest.mark.parametrize("unlike", UNLIKE)
def test_queries_are_drawn_alike_whatever_they_hold(
    unlike: str, priority: str, alpha: float
) -> None:
    rng = np.random.default_rng(0)
    replay = buffer(capacity=200, per_query=64, priority=priority, alpha=alpha)
    for query, (n, spread, level) in zip("ab", UNLIKE[unlike], strict=True):
        rewards = rng.normal(level, spread, size=n)
        replay.add([trajectory(query, i, reward) for i, reward in enumerate(rewards)])
    batch = replay.sample(2, 64, 0)
    assert batch is not None
    losses = [one.final_log_reward**2 for one in batch.trajectories]
    replay.update_priorities(batch.slots, batch.generations, losses)
    counts = Counter(names(replay.sample(1, 1, 0))[0][0] for _ in range(DRAWS))
    assert_frequencies(counts, {"a": 1.0, "b": 1.0})


@pytest.mark.parametrize("priority", ["uniform", "log_reward", "loss"])
def test_recency_prefers_a_query_by_its_newest_entry_and_not_by_the_others(priority: str) -> None:
    replay = buffer(priority=priority, alpha=1.0, recency=0.5)
    replay.add([trajectory("a", i, -float(i), version=0) for i in range(40)])
    replay.add([trajectory("a", 40, -900.0, version=4)])
    replay.add([trajectory("b", i, -100.0, version=2) for i in range(2)])
    replay.add([trajectory("c", i, version=0) for i in range(9)])
    counts = Counter(names(replay.sample(1, 1, 4))[0][0] for _ in range(DRAWS))
    assert_frequencies(counts, {"a": 4.0, "b": 2.0, "c": 1.0})


def test_an_entry_that_was_sampled_out_makes_its_query_no_newer() -> None:
    picks: Counter = Counter()
    for seed in range(300):
        replay = buffer(seed, recency=0.5, max_times_sampled=1)
        replay.add([trajectory("a", i, version=9) for i in range(2)])
        replay.sample(1, 2, 9)
        replay.add([trajectory(q, i, version=v) for q, v in (("a", 2), ("b", 4)) for i in (2, 3)])
        picks[names(replay.sample(1, 1, 9))[0][0]] += 1
    assert_frequencies(picks, {"a": 1.0, "b": 2.0})


def test_a_query_keeps_its_mass_when_its_best_is_sampled_out() -> None:
    picks: Counter = Counter()
    for seed in range(200):
        replay = buffer(seed, priority="log_reward", alpha=1.0, recency=0, max_times_sampled=1)
        replay.add([trajectory("q", 0, 500.0), trajectory("q", 1, 500.0)])
        replay.sample(1, 2, 0)
        replay.add([trajectory(q, i, -i) for q in "qr" for i in (2, 3, 4)])
        picks[names(replay.sample(1, 1, 0))[0][0]] += 1
    assert_frequencies(picks, {"q": 1.0, "r": 1.0})


def test_weight_doubles_every_one_over_recency_versions() -> None:
    replay = buffer(priority="uniform", recency=0.5)
    replay.add([trajectory("q", i, version=2 * i) for i in range(4)])
    counts = Counter(names(replay.sample(1, 1, 6))[0][1] for _ in range(DRAWS))
    assert_frequencies(counts, {0: 1.0, 1: 2.0, 2: 4.0, 3: 8.0})


def test_a_seed_counts_as_the_version_current_when_it_was_added() -> None:
    replay = buffer(priority="uniform", recency=1.0)
    replay.add([trajectory("q", 0, version=5), trajectory("q", 1, version=-1)])
    replay.add([trajectory("q", 2, version=6)])
    counts = Counter(names(replay.sample(1, 1, 6))[0][1] for _ in range(DRAWS))
    assert_frequencies(counts, {0: 1.0, 1: 1.0, 2: 2.0})


def test_versions_may_advance_for_ever() -> None:
    replay = buffer(priority="log_reward", alpha=1.0, recency=10.0, per_query=2)
    for version in range(0, 10**7, 10**5):
        query = f"q{version % 3}"
        replay.add([trajectory(query, i, -1.0, version + i) for i in range(2)])
        assert names(replay.sample(1, 2, version))[0][0] == query
    outweighed = {query for query, _ in names(replay.sample(3, 2, version))}
    assert outweighed == {"q0", "q1", "q2"}  # drawn once nothing else is left


def report(replay: ReplayBuffer, losses: dict[tuple[str, int], float], current: int = 0) -> None:
    """Report losses of entries, each named by its query and its one token."""
    batch = replay.sample(100, 100, current)
    assert batch is not None
    at = [i for i, name in enumerate(names(batch)) if name in losses]
    reported = [losses[names(batch)[i]] for i in at]
    taken = replay.update_priorities(batch.slots[at], batch.generations[at], reported)
    assert taken == len(losses)


def within(replay: ReplayBuffer, query: str = "q", current: int = 0) -> Counter:
    """How often each entry of a query is drawn first."""
    drawn = [names(replay.sample(1, 1, current))[0] for _ in range(DRAWS)]
    return Counter(token for of, token in drawn if of == query)


def test_an_entry_without_a_loss_counts_as_the_largest_of_its_query() -> None:
    replay = buffer(priority="loss", alpha=1.0, recency=0)
    replay.add([trajectory("q", i) for i in range(3)])
    report(replay, {("q", 0): -8.0, ("q", 1): 4.0})  # size counts, not sign
    replay.add([trajectory("q", 3)])
    assert_frequencies(within(replay), {0: 8.001, 1: 4.001, 2: 8.001, 3: 8.001})


def test_where_no_loss_is_known_entries_are_drawn_alike() -> None:
    replay = buffer(priority="loss", alpha=1.0, recency=0)
    replay.add([trajectory("q", i) for i in range(4)])
    assert_frequencies(within(replay), dict.fromkeys(range(4), 1.0))


def test_a_huge_loss_counts_no_longer_than_it_stands() -> None:
    replay = buffer(priority="loss", alpha=1.0, recency=0)
    replay.add([trajectory(query, i) for query in "qr" for i in range(3)])
    report(replay, {("q", 0): 1e4, ("q", 1): 3.0})
    replay.add([trajectory("q", 3), trajectory("r", 3)])
    report(replay, {("r", 0): 1.0, ("r", 1): 2.0})
    # Another query's huge loss is nothing to those of this one that have none yet.
    assert_frequencies(within(replay, "r"), {0: 1.001, 1: 2.001, 2: 2.001, 3: 2.001})
    report(replay, {("q", 0): 1.0})
    assert_frequencies(within(replay), {0: 1.001, 1: 3.001, 2: 3.001, 3: 3.001})


def test_a_huge_loss_that_may_not_be_sampled_counts_no_longer() -> None:
    replay = buffer(priority="loss", alpha=1.0, recency=0, max_staleness=1)
    replay.add([trajectory("q", i, version=0) for i in (0, 1)])
    report(replay, {("q", 0): 1e4, ("q", 1): 1e4})
    replay.add([trajectory("q", i, version=5) for i in (2, 3, 4)])
    report(replay, {("q", 2): 1.0, ("q", 3): 2.0}, current=5)
    assert_frequencies(within(replay, current=5), {2: 1.001, 3: 2.001, 4: 2.001})


def test_a_near_duplicate_that_takes_a_slot_counts_as_new() -> None:
    replay = buffer(priority="loss", alpha=1.0, recency=0, edit_distance=1)
    longer = replace(trajectory("q", 9), token_ids=np.array([7, 8, 9], dtype=np.int32))
    replay.add([trajectory("q", 0), longer])
    report(replay, {("q", 0): 2.0, ("q", 7): 8.0})
    replay.add([trajectory("q", 1, reward=1.0)])  # one edit away and better
    assert replay.stats()["duplicates"] == 1
    assert_frequencies(within(replay), {1: 1.0, 7: 1.0})


def test_alpha_zero_is_uniform_whatever_the_rewards() -> None:
    replay = buffer(priority="log_reward", alpha=0.0, recency=0)
    replay.add([trajectory("q", i, -100.0 * i) for i in range(4)])
    counts = Counter(names(replay.sample(1, 1, 0))[0][1] for _ in range(DRAWS))
    assert_frequencies(counts, dict.fromkeys(range(4), 1.0))


def test_the_staleness_gate_shuts_out_old_versions_but_never_seeds() -> None:
    replay = buffer(max_staleness=2)
    replay.add([trajectory("q", v + 1, version=v) for v in range(-1, 6)])
    for current, expected in [(5, {0, 4, 5, 6}), (7, {0, 6}), (4, {0, 3, 4, 5, 6})]:
        assert {token for _, token in names(replay.sample(1, 50, current))} == expected
    assert replay.sample(1, 50, 8) is None  # a lone seed makes no group


def test_nothing_is_sampled_more_often_than_allowed() -> None:
    replay = buffer(max_times_sampled=3)
    replay.add([trajectory(query, i) for query in "abcd" for i in range(5)])
    counts: Counter = Counter()
    while (batch := replay.sample(2, 2, 0)) is not None:
        counts.update(names(batch))
    assert max(counts.values()) == 3
    left = Counter(query for (query, _), n in counts.items() if n < 3)
    untouched = {(q, i) for q in "abcd" for i in range(5)} - set(counts)
    assert all(left[q] + sum(u[0] == q for u in untouched) <= 1 for q in "abcd")


def test_a_query_with_a_single_eligible_trajectory_is_not_sampled() -> None:
    replay = buffer()
    replay.add([trajectory("lone", 0), trajectory("pair", 0), trajectory("pair", 1)])
    assert {query for query, _ in names(replay.sample(2, 8, 0))} == {"pair"}


def test_an_empty_buffer_has_no_batch() -> None:
    assert buffer().sample(1, 2, 0) is None


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0)])
def test_a_batch_of_nothing_is_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="need queries >= 1"):
        buffer().sample(*sizes, 0)


def course(seed: int, steps: list[int], settings: dict[str, Any]) -> list[Any]:
    """Everything a fixed course of calls returns."""
    replay = buffer(seed, capacity=40, per_query=6, **settings)
    rng = np.random.default_rng(1)
    seen: list[Any] = []
    for version, step in enumerate(steps):
        arrivals = [
            trajectory(f"q{rng.integers(8)}", int(rng.integers(30)), rng.normal(), version)
            for _ in range(step)
        ]
        seen.append(replay.add(arrivals))
        batch = replay.sample(3, 3, version)
        if batch is not None:
            seen.append((batch.slots.tolist(), batch.generations.tolist(), names(batch)))
            losses = rng.normal(size=len(batch))
            seen.append(replay.update_priorities(batch.slots, batch.generations, losses))
    return [*seen, replay.stats()]


@examples(30)
@given(
    st.integers(0, 2**32),
    st.lists(st.integers(0, 20), min_size=1, max_size=10),
    st.fixed_dictionaries(
        {
            "priority": st.sampled_from(["log_reward", "loss", "uniform"]),
            "max_staleness": st.sampled_from([None, 2]),
            "max_times_sampled": st.sampled_from([None, 2]),
        }
    ),
)
def test_the_same_seed_and_calls_give_the_same_batches(
    seed: int, steps: list[int], settings: dict[str, Any]
) -> None:
    assert course(seed, steps, settings) == course(seed, steps, settings)


def test_another_seed_gives_other_batches() -> None:
    assert course(0, [20] * 5, {}) != course(1, [20] * 5, {})
