"""Packed prefix trees: token sequences in which every shared prefix is stored once.

Defines the structure: which token follows which, positions, and which nodes attend to which.
Independent of models; `forward.py` computes log-probabilities on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ROOT = -1


def shared_length(one: npt.NDArray[np.int32], other: npt.NDArray[np.int32]) -> int:
    """Returns the length of the common prefix of two sequences."""
    length = min(len(one), len(other))
    differ = np.flatnonzero(one[:length] != other[:length])
    return int(differ[0]) if len(differ) else length


@dataclass(frozen=True)
class Spans:
    """Which nodes attend to which: a node sees another, its ancestor or itself, if the span of that
    one contains its number. first [L]: a node's number. end [L]: one past its last descendant."""

    first: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]

    def of(self, nodes: npt.NDArray[np.int64]) -> Spans:
        """Returns the spans of these nodes only."""
        return Spans(self.first[nodes], self.end[nodes])

    def seen(self) -> npt.NDArray[np.bool_]:
        """Returns the attention pattern [L, L]: row i is True at i and at every ancestor of i."""
        number = self.first[:, None]
        return (self.first[None, :] <= number) & (number < self.end[None, :])


class PrefixTree:
    """Trees of tokens, packed into one sequence of nodes.

    A node is one token after one particular history. Its position id is its depth, and
    it attends to itself and its ancestors, so each root-to-leaf path is computed exactly
    as if it stood alone. A parent's index is always lower than its children's.
    """

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._depths: list[int] = []
        self._children: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def add_path(self, token_ids: Sequence[int] | npt.NDArray[np.int32], parent: int) -> list[int]:
        """Adds a sequence below a node and returns its nodes, one per token.

        parent: a node, or ROOT for a new tree. A token that already exists at the same
        place is shared, under ROOT too: equal prompts are one tree.
        """
        nodes = []
        for token in token_ids:
            key = (parent, int(token))
            node = self._children.get(key)
            if node is None:
                node = self._children[key] = self._append(int(token), parent)
            nodes.append(node)
            parent = node
        return nodes

    def add_prompt(self, token_ids: Sequence[int] | npt.NDArray[np.int32]) -> int:
        """Adds a prompt, which shares common prefixes with others except for its last token.

        Returns its last node, always a new one: all below it belongs to this prompt alone.
        """
        shared = self.add_path(token_ids[:-1], ROOT)
        return self._append(int(token_ids[-1]), shared[-1] if shared else ROOT)

    def _append(self, token: int, parent: int) -> int:
        self._tokens.append(token)
        self._parents.append(parent)
        self._depths.append(self._depths[parent] + 1 if parent != ROOT else 0)
        return len(self._tokens) - 1

    @property
    def token_ids(self) -> npt.NDArray[np.int64]:
        """Token of each node [L]."""
        return np.array(self._tokens, dtype=np.int64)

    @property
    def parents(self) -> npt.NDArray[np.int64]:
        """Parent of each node [L], ROOT for the first token of a tree."""
        return np.array(self._parents, dtype=np.int64)

    @property
    def position_ids(self) -> npt.NDArray[np.int64]:
        """Depth of each node [L], counted from 0."""
        return np.array(self._depths, dtype=np.int64)

    def with_ancestors(self, nodes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Returns the given nodes and all of their ancestors, in order."""
        kept = np.zeros(len(self), dtype=np.bool_)
        kept[nodes] = True
        for node in range(len(self) - 1, -1, -1):
            if kept[node] and self._parents[node] != ROOT:
                kept[self._parents[node]] = True
        return np.flatnonzero(kept)

    def spans(self) -> Spans:
        """Returns the nodes' spans in depth-first order."""
        sizes = [1] * len(self)
        for node in range(len(self) - 1, -1, -1):
            if self._parents[node] != ROOT:
                sizes[self._parents[node]] += sizes[node]
        first = []
        free: list[int] = []  # the number that the next child takes
        of_next_tree = 0
        for parent, size in zip(self._parents, sizes, strict=True):
            if parent == ROOT:
                number = of_next_tree
                of_next_tree += size
            else:
                number = free[parent]
                free[parent] += size
            first.append(number)
            free.append(number + 1)
        numbers = np.array(first, dtype=np.int64)
        return Spans(numbers, numbers + np.array(sizes, dtype=np.int64))
