"""The sum tree behaves as a plain array of weights and its cumulative sum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.replay.sum_tree import SumTree

CAPACITIES = st.integers(1, 70)


@st.composite
def updates(draw: st.DrawFn, weights: st.SearchStrategy[float]) -> tuple[int, list[list[tuple]]]:
    """A capacity and a few batches of (leaf, weight)."""
    capacity = draw(CAPACITIES)
    pair = st.tuples(st.integers(0, capacity - 1), weights)
    return capacity, draw(st.lists(st.lists(pair, max_size=capacity), max_size=6))


def filled(capacity: int, batches: list[list[tuple]]) -> tuple[SumTree, np.ndarray]:
    """The tree and the plain array after the same updates."""
    tree, plain = SumTree(capacity), np.zeros(capacity)
    for batch in batches:
        tree.set([leaf for leaf, _ in batch], [weight for _, weight in batch])
        for leaf, weight in batch:
            plain[leaf] = weight
    return tree, plain


@given(updates(st.integers(0, 1000)))
def test_holds_what_a_plain_array_holds(case: tuple) -> None:
    tree, plain = filled(*case)
    assert np.array_equal(tree.get(np.arange(len(plain))), plain)
    assert tree.total == plain.sum()  # exact: sums of small integers


@given(updates(st.integers(0, 1000)), st.lists(st.floats(0, 1, exclude_max=True), max_size=20))
def test_finds_the_leaf_that_the_cumulative_sum_names(case: tuple, shares: list[float]) -> None:
    tree, plain = filled(*case)
    if plain.sum() == 0:
        return
    masses = np.array(shares) * plain.sum()
    masses = np.minimum(masses, np.nextafter(plain.sum(), 0))
    expected = np.searchsorted(np.cumsum(plain), masses, side="right")
    assert np.array_equal(tree.find(masses), expected)


@given(
    updates(st.sampled_from([0.0, 5e-324, 1e-300, 1e-17, 0.1, 1.0, 1 / 3, 1e17, 1e300])),
    st.lists(st.floats(0, 2), max_size=20),
)
def test_never_finds_an_empty_leaf_whatever_the_round_off(case: tuple, shares: list[float]) -> None:
    tree, plain = filled(*case)
    if plain.sum() == 0:
        return
    masses = np.array([*shares, 0.0, 1.0]) * tree.total
    assert (plain[tree.find(masses)] > 0).all()


@given(st.integers(0, 2**32), st.integers(1, 3000))
def test_many_leaves_at_once_are_set_and_found_as_one_by_one(seed: int, capacity: int) -> None:
    rng = np.random.default_rng(seed)
    at_once, one_by_one = SumTree(capacity), SumTree(capacity)
    for size in (capacity, *rng.integers(1, 60, size=4)):
        leaves, weights = rng.integers(0, capacity, size), 10.0 ** rng.integers(-9, 9, size)
        at_once.set(leaves, weights)
        for leaf, weight in zip(leaves, weights, strict=True):
            one_by_one.set([leaf], [weight])
    assert at_once.total == one_by_one.total
    masses = rng.random(40) * at_once.total
    assert at_once.find(masses).tolist() == [int(one_by_one.find([mass])[0]) for mass in masses]


def test_round_off_does_not_build_up_over_many_updates() -> None:
    rng = np.random.default_rng(0)
    tree, plain = SumTree(1000), np.zeros(1000)
    for _ in range(500):
        leaves = rng.integers(0, 1000, 5)
        weights = 10.0 ** rng.integers(-12, 12, 5)
        plain[leaves] = weights
        tree.set(leaves, weights)
    fresh = SumTree(1000)
    fresh.set(np.arange(1000), plain)
    assert tree.total == fresh.total
    tree.set(np.arange(1000), np.zeros(1000))
    assert tree.total == 0


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_refuses_a_weight_that_is_no_weight(weight: float) -> None:
    tree = SumTree(4)
    with pytest.raises(ValueError, match="finite and not negative"):
        tree.set([1], [weight])
    assert tree.total == 0


@pytest.mark.parametrize("leaf", [-1, 4])
def test_refuses_a_leaf_that_does_not_exist(leaf: int) -> None:
    with pytest.raises(IndexError):
        SumTree(4).set([leaf], [1.0])


def test_refuses_to_look_into_an_empty_tree() -> None:
    with pytest.raises(ValueError, match="every weight is 0"):
        SumTree(4).find([0.0])


@pytest.mark.parametrize("mass", [-1e-9, np.nan])
def test_refuses_a_mass_that_is_no_mass(mass: float) -> None:
    tree = SumTree(4)
    tree.set([2], [1.0])
    with pytest.raises(ValueError, match="negative or NaN"):
        tree.find([mass])
