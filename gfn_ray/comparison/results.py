"""What the runs of a comparison say: a number for each axis, with its interval over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gfn_ray.comparison.cells import Cell, cells_at, trials
from gfn_ray.comparison.coverage import Coverage
from gfn_ray.comparison.sections import Axis, Method, Section
from gfn_ray.errors import UserError
from gfn_ray.evaluation.calibration import Interval, interval

SUMMARY = "summary.json"


@dataclass(frozen=True)
class Row:
    """A method in a section. values: by axis; of one seed alone low and high are NaN."""

    method: Method
    rate: float | None
    cells: list[Cell]
    values: dict[str, Interval | None]


def is_done(cell: Cell, root: Path) -> bool:
    return (cell.directory(root) / SUMMARY).exists()


def chosen_rate(section: Section, method: Method, root: Path) -> float | None:
    """The learning rate whose trial is best on the section's first axis; a method with one rate has
    that. None, too, where a trial is missing that would decide."""
    if len(method.rates) < 2:
        return method.rates[0] if method.rates else None
    asked = trials(section, method)
    if not all(is_done(cell, root) for cell in asked):
        return None
    axis = section.axes[0]
    sign = 1.0 if axis.better == "lower" else -1.0

    def judged(cell: Cell) -> float:
        value = value_of(cell, axis, root)
        return math.inf if value is None else sign * value

    return min(asked, key=judged).rate


def rows(section: Section, root: Path) -> list[Row]:
    """The section's rows. Raises UserError where a run is missing."""
    return [_row(section, method, root) for method in section.methods]


def value_of(cell: Cell, axis: Axis, root: Path) -> float | None:
    """The number in the run's files; None where it has none, or one that is not finite."""
    file, _, name = axis.key.partition(".")
    if file == "coverage":
        value: float = getattr(Coverage.read(cell.directory(root)), name)
        return value if math.isfinite(value) else None
    found: Any = json.loads((cell.directory(root) / SUMMARY).read_text(encoding="utf-8"))
    for part in axis.key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    if isinstance(found, dict):  # such as memory by actor
        found = sum(found.values())
    return float(found) if isinstance(found, (int, float)) and math.isfinite(found) else None


def _row(section: Section, method: Method, root: Path) -> Row:
    rate = chosen_rate(section, method, root)
    cells = list(cells_at(section, method, rate))
    missing = [cell.name for cell in (*trials(section, method), *cells) if not is_done(cell, root)]
    if missing:
        raise UserError(
            f"the table has a cell without a run, {missing[0]}; run the comparison again without "
            "--only-pages, and it goes on from what is finished"
        )
    values = {axis.name: over_seeds(_values(cells, axis, root)) for axis in section.axes}
    return Row(method, rate, cells, values)


def _values(cells: Sequence[Cell], axis: Axis, root: Path) -> list[float]:
    found = (value_of(cell, axis, root) for cell in cells)
    return [value for value in found if value is not None]


def over_seeds(values: Iterable[float]) -> Interval | None:
    """The mean and its 95 % t interval; None of nothing."""
    known = np.array(list(values))
    if not len(known):
        return None
    if len(known) == 1:
        return Interval(float(known[0]), math.nan, math.nan)
    return interval(known, np.full(len(known), 1 / len(known)))
