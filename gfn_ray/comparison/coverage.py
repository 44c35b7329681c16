"""How far a policy is from a known distribution, and which of its modes it has.

Reads the distribution.csv that random numbers write, so that methods with different optima are held
to the same posterior, and the columns of it that a record keeps.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

FILE = "distribution.csv"
# A mode is where the target exceeds this share of its mean probability.
FLOOR = 0.1
# Covered: at least this share of a mode's mass.
LEAST_SHARE = 0.5


@dataclass(frozen=True)
class Coverage:
    """Probabilities of each integer [N], under the target and the policy after training."""

    integers: Array
    target: Array
    after: Array

    @staticmethod
    def read(directory: Path) -> Coverage:
        with (directory / FILE).open(encoding="utf-8", newline="") as lines:
            head, *rows = csv.reader(lines)
        return Coverage.of(dict(zip(head, np.array(rows, dtype=float).T, strict=True)))

    @staticmethod
    def of(columns: Mapping[str, Sequence[float] | Array]) -> Coverage:
        """From columns that have these names among others."""
        known = (np.asarray(columns[name]) for name in ("integer", "target", "after"))
        return Coverage(*known)

    def columns(self) -> dict[str, Array]:
        """What `of` takes."""
        return {"integer": self.integers, "target": self.target, "after": self.after}

    def measures(self) -> dict[str, float]:
        """Every distance by name."""
        names = ("tv", "kl_p_q", "kl_q_p", "in_range", "modes_covered")
        return {name: float(getattr(self, name)) for name in names}

    @property
    def tv(self) -> float:
        """Total variation; what the policy writes beside the integers counts."""
        beside = max(0.0, 1.0 - float(self.after.sum()))
        return 0.5 * (float(np.abs(self.target - self.after).sum()) + beside)

    @property
    def kl_p_q(self) -> float:
        """KL(target || policy), in nats."""
        return float(self.target @ (np.log(self.target) - np.log(self.after)))

    @property
    def kl_q_p(self) -> float:
        """KL(policy || target), in nats, of the policy on the integers alone."""
        q = self.after / self.after.sum()
        return float(q @ (np.log(q) - np.log(self.target)))

    @property
    def in_range(self) -> float:
        """Probability of an integer."""
        return float(self.after.sum())

    @property
    def modes(self) -> list[slice]:
        """Runs of integers that are likelier than a share of the mean."""
        high = self.target > FLOOR * self.target.mean()
        edges = np.flatnonzero(np.diff(np.concatenate([[False], high, [False]]).astype(int)))
        return [slice(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)]

    @property
    def modes_covered(self) -> float:
        """Share of the modes of which the policy has half of the mass or more."""
        shares = [self.after[mode].sum() / self.target[mode].sum() for mode in self.modes]
        return float(np.mean([share >= LEAST_SHARE for share in shares]))
