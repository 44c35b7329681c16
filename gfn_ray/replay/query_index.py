"""Which slots each query holds, and which query loses one when all slots are full.

Owns the rows (dense numbers of the queries stored now), the slots of each query, and the order of
queries by size and by latest add. Independent of weights.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np

from gfn_ray.replay.duplicates import DuplicateIndex, duplicate_index
from gfn_ray.replay.sum_tree import IndexArray
from gfn_ray.trajectory import IntArray


@dataclass(slots=True)
class _Members:
    row: int
    duplicates: DuplicateIndex
    slots: list[int] = field(default_factory=list)


class QueryIndex:
    """Queries and their slots; a query is dropped with its last slot, and its row reused."""

    def __init__(self, rows: int, edit_distance: int | None) -> None:
        self._edit_distance = edit_distance
        # Ordered by latest add: the longest idle query is first.
        self._by_id: OrderedDict[str, _Members] = OrderedDict()
        self._by_row: list[_Members | None] = [None] * rows
        self._free_rows = list(range(rows - 1, -1, -1))
        # by_size[n]: ids of queries with n slots, in the order in which they reached n; a dict
        # serves as an ordered set. The fullest query is found without a search.
        self._by_size: list[dict[str, None]] = [{}]
        self._largest = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def slots_of(self, query_id: str) -> list[int]:
        """Slots of a query, oldest entry first; empty for an unknown query."""
        members = self._by_id.get(query_id)
        return list(members.slots) if members is not None else []

    def size_of(self, query_id: str) -> int:
        """Number of slots a query holds; 0 for an unknown query."""
        members = self._by_id.get(query_id)
        return len(members.slots) if members is not None else 0

    def find(self, query_id: str, token_ids: IntArray) -> int | None:
        """Slot of a duplicate of z [T] in this query, or None."""
        members = self._by_id.get(query_id)
        return members.duplicates.find(token_ids) if members is not None else None

    def add(self, query_id: str, slot: int, token_ids: IntArray) -> int:
        """Gives a query one more slot, which holds z [T]; returns the query's row."""
        members = self._by_id.get(query_id)
        if members is None:
            members = _Members(self._free_rows.pop(), duplicate_index(self._edit_distance))
            self._by_id[query_id] = members
            self._by_row[members.row] = members
        members.slots.append(slot)
        members.duplicates.add(slot, token_ids)
        self._resized(query_id, len(members.slots) - 1, len(members.slots))
        self.touch(query_id)
        return members.row

    def remove(self, query_id: str, slot: int, token_ids: IntArray) -> int:
        """Takes a slot, which held z [T], from a query; returns the row it has or had."""
        members = self._by_id[query_id]
        members.slots.remove(slot)
        members.duplicates.remove(slot, token_ids)
        self._resized(query_id, len(members.slots) + 1, len(members.slots))
        if not members.slots:
            del self._by_id[query_id]
            self._by_row[members.row] = None
            self._free_rows.append(members.row)
        return members.row

    def exchange(self, query_id: str, slot: int, old_ids: IntArray, new_ids: IntArray) -> None:
        """Records that a slot now holds another z [T]."""
        duplicates = self._by_id[query_id].duplicates
        duplicates.remove(slot, old_ids)
        duplicates.add(slot, new_ids)

    def touch(self, query_id: str) -> None:
        """Records that the query just got a trajectory."""
        self._by_id.move_to_end(query_id)

    def fullest(self) -> str:
        """The query with the most slots; of several, the one that reached that number first."""
        return next(iter(self._by_size[self._largest]))

    def longest_idle(self) -> str:
        """The query whose latest trajectory is the oldest."""
        return next(iter(self._by_id))

    def segments(self, rows: IndexArray) -> tuple[IndexArray, IndexArray]:
        """Slots [N] of the queries at rows [Q], one query after another, and their sizes [Q].

        A row without a query has size 0.
        """
        held = [members.slots if members else [] for members in map(self._by_row.__getitem__, rows)]
        sizes = np.fromiter(map(len, held), dtype=np.int64, count=len(held))
        slots = np.fromiter(chain.from_iterable(held), dtype=np.int64, count=int(sizes.sum()))
        return slots, sizes

    def state(self) -> dict[str, Any]:
        """What restore() needs: the queries by latest add, and their slots concatenated."""
        members = list(self._by_id.values())
        number = {query_id: index for index, query_id in enumerate(self._by_id)}
        by_size = [number[query_id] for ids in self._by_size for query_id in ids]
        return {
            "ids": list(self._by_id),
            "rows": _integers(one.row for one in members),
            "sizes": _integers(len(one.slots) for one in members),
            "slots": _integers(chain.from_iterable(one.slots for one in members)),
            "lookup": _integers(chain.from_iterable(one.duplicates.slots() for one in members)),
            "by_size": _integers(by_size),
            "free_rows": _integers(self._free_rows),
        }

    def restore(self, state: dict[str, Any], z_of: Callable[[int], IntArray]) -> None:
        """Restores what state() returned, in a new index. z_of: returns the token ids of a slot."""
        slots, lookup = iter(state["slots"].tolist()), iter(state["lookup"].tolist())
        sizes = state["sizes"].tolist()
        for query_id, row, size in zip(state["ids"], state["rows"].tolist(), sizes, strict=True):
            members = _Members(row, duplicate_index(self._edit_distance), list(islice(slots, size)))
            for slot in islice(lookup, size):
                members.duplicates.add(slot, z_of(slot))
            self._by_id[query_id] = self._by_row[row] = members
        self._largest = max(sizes, default=0)
        self._by_size = [{} for _ in range(self._largest + 1)]
        for number in state["by_size"].tolist():
            self._by_size[sizes[number]][state["ids"][number]] = None
        self._free_rows = state["free_rows"].tolist()

    def _resized(self, query_id: str, before: int, after: int) -> None:
        if before:
            del self._by_size[before][query_id]
        if after == len(self._by_size):
            self._by_size.append({})
        if after:
            self._by_size[after][query_id] = None
        self._largest = max(self._largest, after)
        while self._largest and not self._by_size[self._largest]:
            self._largest -= 1


def _integers(values: Iterable[int]) -> IndexArray:
    return np.fromiter(values, dtype=np.int64)
