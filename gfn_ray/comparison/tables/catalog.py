"""The two tables: which sections each of them has."""

from __future__ import annotations

from typing import Literal

from gfn_ray.comparison.section import Section
from gfn_ray.comparison.tables.arithmetic import arithmetic
from gfn_ray.comparison.tables.numbers import few_modes, modes, numbers
from gfn_ray.comparison.tables.stories import continuation, infill
from gfn_ray.comparison.tables.subjectivity import subjectivity
from gfn_ray.comparison.tables.three_words import three_words


def sections(table: Literal["quick", "full"]) -> tuple[Section, ...]:
    """quick: a quarter of an hour on two cores."""
    if table == "quick":
        return (few_modes(),)
    return (
        numbers(),
        modes(),
        three_words(),
        arithmetic(),
        infill(),
        continuation(),
        subjectivity(),
    )
