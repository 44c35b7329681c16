"""Finds a stored z of the same query that equals or nearly equals a new one.

Owns the lookup structures; the buffer decides what happens to a duplicate. Which tokens a tool
wrote follows from the tokens before them, so token ids alone identify a z.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from gfn_ray.trajectory import IntArray


class DuplicateIndex(Protocol):
    """The stored z of one query, by slot."""

    def find(self, token_ids: IntArray) -> int | None:
        """Slot of a stored duplicate of z [T], the nearest one, or None."""

    def add(self, slot: int, token_ids: IntArray) -> None:
        """Stores z [T], which find() did not find, under a slot."""

    def remove(self, slot: int, token_ids: IntArray) -> None:
        """Removes the z [T] stored under a slot."""

    def slots(self) -> list[int]:
        """The slots; adding them to a new index in this order gives the same answers."""


class ExactDuplicates:
    """Duplicates are equal token sequences: one dictionary lookup."""

    def __init__(self) -> None:
        self._slots: dict[bytes, int] = {}

    def find(self, token_ids: IntArray) -> int | None:
        return self._slots.get(_key(token_ids))

    def add(self, slot: int, token_ids: IntArray) -> None:
        self._slots[_key(token_ids)] = slot

    def remove(self, slot: int, token_ids: IntArray) -> None:
        del self._slots[_key(token_ids)]

    def slots(self) -> list[int]:
        return list(self._slots.values())


class NearDuplicates:
    """Duplicates are within `distance` insertions, deletions or replacements of a token.

    Compares only z of one query whose lengths differ by at most the distance; the loop over them
    runs inside rapidfuzz. Nearness is not transitive: a z that replaces its nearest neighbour may
    be near another stored one, and both stay.
    """

    def __init__(self, distance: int) -> None:
        self._distance = distance
        self._by_length: dict[int, dict[int, str]] = {}

    def find(self, token_ids: IntArray) -> int | None:
        text = _text(token_ids)
        best_slot, best_distance = None, self._distance + 1
        for change in range(-self._distance, self._distance + 1):
            stored = self._by_length.get(len(text) + change)
            if not stored:
                continue
            match = process.extractOne(
                text, stored, scorer=Levenshtein.distance, score_cutoff=self._distance
            )
            if match is not None and match[1] < best_distance:
                best_slot, best_distance = match[2], match[1]
        return best_slot

    def add(self, slot: int, token_ids: IntArray) -> None:
        self._by_length.setdefault(len(token_ids), {})[slot] = _text(token_ids)

    def remove(self, slot: int, token_ids: IntArray) -> None:
        del self._by_length[len(token_ids)][slot]

    def slots(self) -> list[int]:
        # Among equally near ones of a length, find() returns the one added first.
        return [slot for length in sorted(self._by_length) for slot in self._by_length[length]]


class NoDuplicates:
    """Every z counts, also one that is stored already: shares of samples stay what they were."""

    def __init__(self) -> None:
        self._slots: dict[int, None] = {}

    def find(self, token_ids: IntArray) -> int | None:
        return None

    def add(self, slot: int, token_ids: IntArray) -> None:
        self._slots[slot] = None

    def remove(self, slot: int, token_ids: IntArray) -> None:
        del self._slots[slot]

    def slots(self) -> list[int]:
        return list(self._slots)


def duplicate_index(edit_distance: int | None) -> DuplicateIndex:
    """The lookup that `replay.edit_distance` asks for."""
    if edit_distance is None:
        return NoDuplicates()
    return NearDuplicates(edit_distance) if edit_distance > 0 else ExactDuplicates()


def _key(token_ids: IntArray) -> bytes:
    return np.asarray(token_ids, dtype=np.int32).tobytes()


def _text(token_ids: IntArray) -> str:
    """z as a string with one character per token: rapidfuzz reads a str without hashing items.

    Unicode has 1,114,112 code points, more than any vocabulary; surrogates are ids like others.
    """
    return np.asarray(token_ids, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
