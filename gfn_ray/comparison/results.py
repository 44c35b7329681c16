"""What the records of a comparison say: numbers for each axis, and which of them are level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gfn_ray.comparison.cells import Cell, cells_at, trials
from gfn_ray.comparison.records import Record, Records
from gfn_ray.comparison.section import Axis, Method, Section
from gfn_ray.errors import UserError
from gfn_ray.evaluation.calibration import COVERAGE, Interval, interval

_AFTER = "after."


@dataclass(frozen=True)
class Value:
    """What a row has on an axis. numbers: one a seed that has one. uppers: likewise, where a number
    is known between two bounds. seeds: of the row."""

    numbers: tuple[float, ...]
    uppers: tuple[float, ...]
    seeds: int

    @cached_property
    def interval(self) -> Interval:
        """The mean and its 95 % t interval, which is NaN for one number alone."""
        known = np.array(self.numbers)
        if len(known) == 1:
            return Interval(float(known[0]), math.nan, math.nan)
        return interval(known, np.full(len(known), 1 / len(known)))

    @property
    def mean(self) -> float:
        return self.interval.mean


@dataclass(frozen=True)
class Row:
    """A method in a section, or a baseline that its runs measure. values: by axis; None where no
    seed has a number. trials: the runs that decided its learning rate."""

    title: str
    records: list[Record]
    trials: list[Record]
    values: dict[str, Value | None]


def chosen_rate(section: Section, method: Method, records: Records) -> float | None:
    """The learning rate whose trial is best on the section's first axis; a method with one rate has
    that. None, too, where a trial is missing that would decide."""
    if len(method.rates) < 2:
        return method.rates[0] if method.rates else None
    asked = {cell.rate: records.of(cell) for cell in trials(section, method)}
    axis = section.axes[0]
    sign = 1.0 if axis.better == "lower" else -1.0

    def judged(record: Record) -> float:
        found = number_of(record, axis.keys)
        return math.inf if found is None else sign * found

    known = {rate: judged(record) for rate, record in asked.items() if record is not None}
    return min(known, key=lambda rate: known[rate]) if len(known) == len(asked) else None


def rows(section: Section, records: Records) -> list[Row]:
    """The section's rows. Raises UserError where a record is missing."""
    return [row for method in section.methods for row in _rows_of(section, method, records)]


def number_of(record: Record, keys: Sequence[str]) -> float | None:
    """The mean of the values with these keys; None where one is missing."""
    found = [record.values.get(key) for key in keys]
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if len(known) == len(found) else None


def is_level(one: Value, other: Value) -> bool:
    """Whether seeds do not tell the two apart: Welch's 95 % interval of the difference of their
    means holds 0. Of a single number nothing is known but the number."""
    away = abs(one.mean - other.mean)
    counts = [len(value.numbers) for value in (one, other)]
    if min(counts) < 2:
        return away == 0
    errors = [
        float(np.var(value.numbers, ddof=1)) / n
        for value, n in zip((one, other), counts, strict=True)
    ]
    if (total := sum(errors)) == 0:
        return away == 0
    from scipy.special import stdtrit

    parts = [error**2 / (n - 1) for error, n in zip(errors, counts, strict=True)]
    return away <= math.sqrt(total) * float(stdtrit(total**2 / sum(parts), (1 + COVERAGE) / 2))


def _rows_of(section: Section, method: Method, records: Records) -> list[Row]:
    rate = chosen_rate(section, method, records)
    tried = [_record(cell, records) for cell in trials(section, method)]
    found = [_record(cell, records) for cell in cells_at(section, method, rate)]
    title = method.title if rate is None else f"{method.title} (lr {rate:g})"
    own = Row(title, found, tried, {a.name: _value(found, a, _AFTER) for a in section.axes})
    others = [
        Row(name, [], [], {a.name: _value(found, a, f"baselines.{name}.") for a in section.axes})
        for name in method.baselines
    ]
    return [own, *others]


def _record(cell: Cell, records: Records) -> Record:
    if (record := records.of(cell)) is None:
        raise UserError(
            f"the table has a cell without a record, {cell.name}; run the comparison again without "
            "--only-pages, and it goes on from what is finished"
        )
    return record


def _value(found: Sequence[Record], axis: Axis, place: str) -> Value | None:
    """place: where in a record the row's own numbers are. A baseline has no others."""
    keys, upto = ([_moved(key, place) for key in each] for each in (axis.keys, (axis.upto,)))
    numbers = [n for record in found if (n := number_of(record, keys)) is not None]
    uppers = [n for record in found if (n := number_of(record, upto)) is not None]
    return Value(tuple(numbers), tuple(uppers), len(found)) if numbers else None


def _moved(key: str, place: str) -> str:
    if place == _AFTER:
        return key
    return place + key.removeprefix(_AFTER) if key.startswith(_AFTER) else ""
