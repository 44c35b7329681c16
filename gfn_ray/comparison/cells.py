"""A cell of the comparison: one run of one method, known by everything that decides its outcome."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gfn_ray.comparison.section import Flags, Method, Section

TRIAL_SEED = 100
"""Of the runs that decide a learning rate; no row of a table is of this seed."""


@dataclass(frozen=True)
class Cell:
    """rate: its learning rate, where the method has one."""

    section: Section
    method: Method
    seed: int
    rate: float | None

    @property
    def flags(self) -> Flags:
        """The job's settings, the method's own over the section's."""
        seeds = dict.fromkeys(self.section.seed_flags, str(self.seed))
        found = {**self.section.flags, **self.method.flags, **seeds}
        return found if self.rate is None else {**found, self.method.rate_flag: f"{self.rate:g}"}

    @property
    def words(self) -> list[str]:
        """The job's arguments."""
        return [word for name, value in self.flags.items() for word in (f"--{name}", value)]

    @property
    def name(self) -> str:
        """With a digest of the settings, so that a cell of other settings is another one."""
        digest = hashlib.sha256(json.dumps([self.section.job, *self.words]).encode()).hexdigest()
        return f"{self.section.slug}/{self.method.slug}-{self.seed}-{digest[:8]}"

    def directory(self, root: Path) -> Path:
        return root / self.name


def trials(section: Section, method: Method) -> list[Cell]:
    """The runs that decide the method's learning rate: none if there is no choice."""
    if len(method.rates) < 2:
        return []
    return [Cell(section, method, TRIAL_SEED, rate) for rate in method.rates]


def cells_at(section: Section, method: Method, rate: float | None) -> Iterator[Cell]:
    """The runs of a row, one a seed."""
    return (Cell(section, method, seed, rate) for seed in section.seeds)
