"""The draw of queries follows their masses, stratified, without replacement, at any scale."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.replay.query_masses import QueryMasses


def with_masses(log_masses: np.ndarray) -> QueryMasses:
    masses = QueryMasses(len(log_masses))
    masses.set(np.arange(len(log_masses)), log_masses)
    return masses


def draw_by_hand(log_masses: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """The stratified draw on a plain array."""
    left = np.exp(log_masses)
    chosen: list[int] = []
    while len(chosen) < count and left.sum() > 0:
        missing = count - len(chosen)
        points = (np.arange(missing) + rng.random(missing)) / missing * left.sum()
        found = sorted(set(np.searchsorted(np.cumsum(left), points, side="right").tolist()))
        chosen += found
        left[found] = 0
    return chosen


LOG_MASSES = st.lists(st.one_of(st.floats(-8, 8), st.just(-np.inf)), min_size=1, max_size=40)


@given(LOG_MASSES, st.integers(1, 12), st.integers(0, 2**32))
def test_draws_what_a_plain_array_would_draw(values: list[float], count: int, seed: int) -> None:
    log_masses = np.array(values)
    masses = with_masses(log_masses)
    rng, same = np.random.default_rng(seed), np.random.default_rng(seed)
    for _ in range(3):  # a draw leaves the masses as they were
        assert masses.draw(count, rng).tolist() == draw_by_hand(log_masses, count, same)


@given(LOG_MASSES, st.integers(1, 50), st.floats(-1e6, 1e6), st.integers(0, 2**32))
def test_draws_distinct_rows_and_fewer_only_where_there_are_fewer(
    values: list[float], count: int, shift: float, seed: int
) -> None:
    log_masses = np.array(values) + shift
    rows = with_masses(log_masses).draw(count, np.random.default_rng(seed))
    assert len(set(rows.tolist())) == len(rows) == min(count, np.isfinite(log_masses).sum())
    assert np.isfinite(log_masses[rows]).all()


def test_masses_may_grow_for_ever() -> None:
    masses, rng = QueryMasses(3), np.random.default_rng(0)
    for version in range(0, 10**6, 997):
        row = np.array([version % 3])
        masses.set(row, np.array([1000.0 * version]))
        assert masses.draw(1, rng).tolist() == row.tolist()
    assert sorted(masses.draw(3, rng).tolist()) == [0, 1, 2]  # the outweighed ones come last


def test_proportions_survive_when_the_heaviest_leave() -> None:
    masses = with_masses(np.array([5000.0, np.log(3.0), np.log(1.0)]))
    masses.set(np.array([0]), np.array([-np.inf]))
    rng = np.random.default_rng(0)
    first = np.mean([masses.draw(1, rng)[0] == 1 for _ in range(2000)])
    assert abs(first - 0.75) < 0.05


def test_equal_masses_within_the_strata_are_each_drawn_once() -> None:
    masses = with_masses(np.zeros(8))
    assert masses.draw(8, np.random.default_rng(0)).tolist() == list(range(8))
