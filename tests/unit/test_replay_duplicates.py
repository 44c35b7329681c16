"""Duplicate lookup agrees with comparing z against everything stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz import process

from gfn_ray.config import ReplayConfig
from gfn_ray.replay import ReplayBuffer
from gfn_ray.replay.duplicates import duplicate_index
from gfn_ray.trajectory import IntArray, Trajectory

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


PER_QUERY = 8


def scored(query: int, tokens: np.ndarray) -> Trajectory:
    return Trajectory(
        query_id=str(query),
        token_ids=tokens.astype(np.int32),
        tool_mask=np.zeros(len(tokens), dtype=np.bool_),
        terminable=np.ones(len(tokens) + 1, dtype=np.bool_),
        policy_version=0,
        proposal="policy",
        temperature=1.0,
        epsilon=0.0,
        stopped=True,
        sampler_log_pf=np.zeros(len(tokens), dtype=np.float32),
        sampler_log_stop=0.0,
        log_reward=np.zeros(len(tokens) + 1, dtype=np.float32),
    )


@pytest.mark.parametrize("queries", [1, 10, 300])
def test_an_add_is_compared_with_its_own_query_alone_however_much_is_stored(
    queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = [0]

    search = process.extractOne

    def counted(text: str, stored: dict[int, str], **options: Any) -> Any:
        compared[0] += len(stored)
        return search(text, stored, **options)

    monkeypatch.setattr(process, "extractOne", counted)
    rng = np.random.default_rng(0)
    settings = ReplayConfig(capacity=queries * PER_QUERY, per_query=PER_QUERY, edit_distance=2)
    replay = ReplayBuffer(settings, seed=0)
    most = 0
    for number in range(2 * queries * PER_QUERY):  # the second time round it is full
        tokens = rng.integers(0, 50_000, rng.integers(4, 10))
        compared[0] = 0
        replay.add([scored(number % queries, tokens)])
        most = max(most, compared[0])
    assert len(replay) == queries * PER_QUERY
    assert 0 < most <= PER_QUERY
