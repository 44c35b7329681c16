"""Duplicate lookup agrees with comparing z against everything stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfn_ray.replay.duplicates import duplicate_index
from gfn_ray.trajectory import IntArray

SEQUENCES = st.lists(st.integers(0, 3), max_size=6)


def ids(tokens: list[int]) -> IntArray:
    return np.array(tokens, dtype=np.int32)


def edits(left: list[int], right: list[int]) -> int:
    """Levenshtein distance by its textbook recurrence."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


@settings(deadline=None)
@given(st.lists(SEQUENCES, max_size=25), SEQUENCES, st.integers(0, 3), st.data())
def test_finds_a_nearest_stored_z_within_the_distance(
    stored: list[list[int]], wanted: list[int], distance: int, data: st.DataObject
) -> None:
    index = duplicate_index(distance)
    kept: dict[int, list[int]] = {}
    for slot, tokens in enumerate(stored):
        if index.find(ids(tokens)) is None:
            index.add(slot, ids(tokens))
            kept[slot] = tokens
    for slot in data.draw(st.sets(st.sampled_from(sorted(kept)))) if kept else ():
        index.remove(slot, ids(kept.pop(slot)))

    found = index.find(ids(wanted))
    within = {slot: d for slot, z in kept.items() if (d := edits(z, wanted)) <= distance}
    if not within:
        assert found is None
    else:
        assert found is not None and within[found] == min(within.values())


@settings(deadline=None)
@given(st.lists(SEQUENCES, max_size=25), st.integers(0, 3))
def test_no_two_stored_z_are_duplicates_of_each_other(
    offered: list[list[int]], distance: int
) -> None:
    index = duplicate_index(distance)
    kept: list[list[int]] = []
    for tokens in offered:
        if index.find(ids(tokens)) is None:
            index.add(len(kept), ids(tokens))
            kept.append(tokens)
    assert all(edits(a, b) > distance for i, a in enumerate(kept) for b in kept[:i])


@pytest.mark.parametrize("distance", [0, 1])
@pytest.mark.parametrize("token", [0, 0xD800, 0xDFFF, 0xFFFF, 262_143, 1_114_111])
def test_every_token_id_is_told_from_its_neighbours(distance: int, token: int) -> None:
    index = duplicate_index(distance)
    index.add(7, ids([token, token, token]))
    assert index.find(ids([token, token, token])) == 7
    assert index.find(ids([token, 5, 6])) is None


def test_equal_ids_of_another_integer_width_are_the_same_z() -> None:
    index = duplicate_index(0)
    index.add(3, ids([1, 2, 3]))
    assert index.find(np.array([1, 2, 3], dtype=np.int64)) == 3  # type: ignore[arg-type]
