"""A sum tree: proportional lookup in O(log n), vectorised over lookups.

Owns the arithmetic of non-negative weights and their partial sums; independent of what a leaf
stands for.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IndexArray = npt.NDArray[np.int64]
WeightArray = npt.NDArray[np.float64]

# Updating k leaves path by path costs k per level; rebuilding costs half the leaves in fewer,
# contiguous operations. Above this share of the leaves a rebuild is faster.
REBUILD_SHARE = 1 / 8

# numpy needs several small arrays per level, whatever the number of leaves; plain numbers cost
# about 0.15 us per leaf. Up to this many leaves plain numbers are faster.
FEW_LEAVES = 16


class SumTree:
    """Float64 weights on leaves 0..capacity-1, all 0 at first.

    Stored as an implicit binary heap: node i has children 2i and 2i+1, node 1 is the
    root, leaf j is node leaves + j. A parent is always recomputed from its children,
    never adjusted by a difference, so round-off cannot build up over many updates.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a sum tree needs at least one leaf, got capacity {capacity}")
        self.capacity = capacity
        self._depth = (capacity - 1).bit_length()
        self._leaves = 1 << self._depth
        self._nodes: WeightArray = np.zeros(2 * self._leaves, dtype=np.float64)
        self._numbers = self._nodes.data  # the same nodes, read one by one without arrays

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self._nodes[1])

    def get(self, indices: npt.ArrayLike) -> WeightArray:
        """Weights [N] of leaves [N]."""
        return self._nodes[self._checked(indices) + self._leaves]

    def set(self, indices: npt.ArrayLike, values: npt.ArrayLike) -> None:
        """Sets the weights [N] of leaves [N]; for a repeated leaf, the last weight counts."""
        leaves = self._checked(indices)
        weights = np.asarray(values, dtype=np.float64)
        if weights.shape != leaves.shape:
            raise ValueError(f"got {weights.shape} values for {leaves.shape} indices")
        if not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError("weights of a sum tree must be finite and not negative")
        nodes = leaves + self._leaves
        self._nodes[nodes] = weights
        if len(nodes) > REBUILD_SHARE * self._leaves:
            self._rebuild()
            return
        if len(nodes) <= FEW_LEAVES:
            self._climb(nodes)
            return
        for _ in range(self._depth):
            # Siblings compute their parent twice; that is cheaper than removing repeats.
            nodes = nodes >> 1
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def find(self, masses: npt.ArrayLike) -> IndexArray:
        """Leaves [N] whose interval of the cumulative sum contains the masses [N] in [0, total).

        A mass that round-off pushed to the total or beyond gets the last leaf with a weight; a leaf
        of weight 0 is never returned.
        """
        rest = np.array(masses, dtype=np.float64)
        if not (rest >= 0).all():
            raise ValueError("masses must not be negative or NaN")
        if self.total <= 0:
            raise ValueError("every weight is 0: there is no leaf to find")
        nodes = self._few(rest) if rest.size <= FEW_LEAVES else self._many(rest)
        return nodes - self._leaves

    def _many(self, rest: WeightArray) -> IndexArray:
        """Nodes of the leaves that find() returns, level by level."""
        nodes = np.ones(rest.shape, dtype=np.int64)
        for _ in range(self._depth):
            left = self._nodes[2 * nodes]
            # Going left needs no guard, because rest < left implies left > 0. Going right does;
            # if the right child is empty the left one is not, because the parent is not.
            right = (rest >= left) & (self._nodes[2 * nodes + 1] > 0)
            rest -= left * right
            nodes = 2 * nodes + right
        return nodes

    def _few(self, rests: WeightArray) -> IndexArray:
        """The same comparisons, lookup by lookup."""
        numbers, levels = self._numbers, range(self._depth)
        found = []
        for rest in rests.tolist():
            node = 1
            for _ in levels:
                node *= 2
                left = numbers[node]
                if rest >= left and numbers[node + 1] > 0:
                    rest -= left
                    node += 1
            found.append(node)
        return np.array(found, dtype=np.int64)

    def _climb(self, leaves: IndexArray) -> None:
        """Recomputes the sums above a few leaves, level by level from below."""
        numbers, nodes = self._numbers, leaves.tolist()
        for _ in range(self._depth):
            nodes = [node >> 1 for node in nodes]
            for node in nodes:
                numbers[node] = numbers[2 * node] + numbers[2 * node + 1]

    def _checked(self, indices: npt.ArrayLike) -> IndexArray:
        leaves = np.asarray(indices, dtype=np.int64)
        if leaves.size and not (leaves.min() >= 0 and leaves.max() < self.capacity):
            raise IndexError(f"leaf outside 0..{self.capacity - 1}")
        return leaves

    def _rebuild(self) -> None:
        width = self._leaves
        while width > 1:
            children = self._nodes[width : 2 * width]
            width //= 2
            self._nodes[width : 2 * width] = children[0::2] + children[1::2]
