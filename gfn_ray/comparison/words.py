"""A section in words, for both pages: its table as texts, who is ahead, and what was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gfn_ray.comparison.results import Row, Value, is_level
from gfn_ray.comparison.section import Axis, Section
from gfn_ray.formatting import number

MOST_NAMED = 3  # of the rows that are level with the best


@dataclass(frozen=True)
class Cell:
    """said: the number. aside: its interval, and of how many seeds it is if not of all. best: it is
    the best of its column, or not told from it."""

    said: str
    aside: str = ""
    best: bool = False


def heads(section: Section) -> list[tuple[str, str]]:
    """Name and meaning of every column after the first."""
    arrows = {"higher": " ↑", "lower": " ↓", "none": ""}
    of_axes = [(f"{axis.name}{arrows[axis.better]}", axis.meaning) for axis in section.axes]
    return [("seeds", "runs of the row; of one alone nothing is said of chance"), *of_axes]


def cells(section: Section, rows: Sequence[Row]) -> list[list[Cell]]:
    """What stands in each row after its title."""
    best = {axis.name: _best(axis, rows) for axis in section.axes}
    return [
        [_seeds(row), *(_cell(row.values[axis.name], best[axis.name]) for axis in section.axes)]
        for row in rows
    ]


def tried(section: Section) -> str:
    """How the learning rates came about."""
    most = max(len(method.rates) for method in section.methods)
    if most < 2:
        return "The learning rates were not tuned."
    return (
        f"{most} learning rates of each method were tried on a seed of their own, and the best on "
        f"{section.axes[0].name} was taken."
    )


def lesson(section: Section, rows: Sequence[Row]) -> str:
    """Who is ahead on the axes that are shown, whom seeds do not tell from it, and who is last."""
    found = (_lesson(section.axis(name), rows) for name in section.shown)
    return " ".join(filter(None, found))


def _lesson(axis: Axis, rows: Sequence[Row]) -> str:
    known = _known(axis, rows)
    if axis.better == "none" or len(known) < 2:
        return ""
    ordered = sorted(known, key=lambda t: known[t].mean, reverse=axis.better == "higher")
    first, last = ordered[0], ordered[-1]
    best = known[first]
    level = [title for title in ordered[1:] if _is_best(known[title], best)]
    words = f"On {axis.name}, **{first}** is ahead with {number(best.mean)}"
    if len(best.numbers) == 1:
        words += ", of one seed"
    if len(level) > MOST_NAMED:
        words += f", and seeds do not tell {len(level)} of {len(ordered) - 1} others from it"
    elif level:
        words += f", and seeds do not tell it from {', '.join(level)}"
    if last not in level:
        words += f"; last is {last} with {number(known[last].mean)}"
    return f"{words}."


def _known(axis: Axis, rows: Sequence[Row]) -> Mapping[str, Value]:
    values = ((row.title, row.values[axis.name]) for row in rows)
    return {title: value for title, value in values if value is not None}


def _best(axis: Axis, rows: Sequence[Row]) -> Value | None:
    known = list(_known(axis, rows).values())
    if not known or axis.better == "none":
        return None
    choose = max if axis.better == "higher" else min
    return choose(known, key=lambda value: value.mean)


def _is_best(value: Value, best: Value) -> bool:
    """A number that is written like the best is bold like it, too."""
    return is_level(value, best) or number(value.mean) == number(best.mean)


def _seeds(row: Row) -> Cell:
    return Cell(str(max((value.seeds for value in row.values.values() if value), default=0)))


def _cell(value: Value | None, best: Value | None) -> Cell:
    if value is None:
        return Cell("-")
    said, asides = number(value.mean), []
    if value.uppers:
        said += f" to {number(sum(value.uppers) / len(value.uppers))}"
    elif len(value.numbers) > 1:
        asides.append(f"[{number(value.interval.low)}, {number(value.interval.high)}]")
    if len(value.numbers) < value.seeds:
        asides.append(f"{len(value.numbers)} of {value.seeds} seeds")
    return Cell(said, " ".join(asides), best is not None and _is_best(value, best))
