"""What is compared: a section of the table, its methods, and the axes they are judged on.

A section is one task under settings that all methods share: model, data, support, updates,
trajectories an update. A method adds its own flags, and has as many learning rates tried as any
other. Where a method maximises a reward, it stands there twice: *matched*, with a reward whose
optimum is the posterior itself, and *usual*, as people run it. The sections are in tables/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", "none"]
Flags = Mapping[str, str]


@dataclass(frozen=True)
class Axis:
    """A column. keys: of a record's values, as "after.tv", or of its distribution, as
    "coverage.tv"; the number is their mean. upto: of a number that is known between two bounds
    only, the key of the upper one."""

    name: str
    keys: tuple[str, ...]
    better: Better
    meaning: str
    upto: str = ""


@dataclass(frozen=True)
class Method:
    """A row. form: matched, usual, or empty where there is one only. rates: learning rates that are
    tried on another seed, of which the best is taken; rate_flag sets it. baselines: decoders and
    classifiers without training that its runs measure too, each a row of its own."""

    name: str
    flags: Flags
    form: str = ""
    rates: tuple[float, ...] = ()
    rate_flag: str = "learner.lr"
    baselines: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return ", ".join(filter(None, (self.name, self.form)))

    @property
    def slug(self) -> str:
        return "-".join(self.title.lower().replace(",", "").split())


@dataclass(frozen=True)
class Section:
    """axes: the first decides between learning rates. shown: names of axes that are plotted and
    spoken of. seed_flags: what a seed sets. about_s: seconds of a run on two cores, as far as was
    known when it was added; what is finished knows better."""

    slug: str
    title: str
    setup: str
    job: str
    flags: Flags
    methods: tuple[Method, ...]
    axes: tuple[Axis, ...]
    shown: tuple[str, ...]
    about_s: float
    seeds: tuple[int, ...] = (0, 1, 2)
    seed_flags: tuple[str, ...] = ("seed",)

    def axis(self, name: str) -> Axis:
        return next(axis for axis in self.axes if axis.name == name)
