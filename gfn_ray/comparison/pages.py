"""The pages of a comparison: one table a section as Markdown, and the same as HTML with plots.

Everything on them is read from finished runs; behind every row stand its commands.
"""

from __future__ import annotations

import html
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from gfn_ray.comparison.results import Row
from gfn_ray.comparison.runner import ABOUT
from gfn_ray.comparison.sections import Axis, Section
from gfn_ray.evaluation.calibration import Interval
from gfn_ray.formatting import count, duration, number
from gfn_ray.storage.atomic import atomic_file

Sections = Sequence[tuple[Section, list[Row]]]

TITLE = "GFlowNet training beside other methods"
INTRODUCTION = (
    "Made from finished runs by `make comparison`; no number is typed. A mean over seeds stands "
    "with its 95 % t interval; where there is one seed, without. The best of a column is bold, and "
    "with it what its interval does not tell from the best."
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22272b; max-width: 76rem; margin: 2rem auto;
  padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { text-align: left; padding: .3rem .8rem; border-bottom: 1px solid #e6e9eb; }
th { color: #5c656d; font-weight: 600; }
td small { color: #5c656d; white-space: nowrap; }
code { font-size: .85em; background: #f4f5f6; padding: .1rem .25rem; }
details { margin: 1rem 0; } summary { cursor: pointer; color: #5c656d; }
img { max-width: 100%; }
"""


def markdown(sections: Sections, root: Path) -> str:
    """The whole document. root: of the runs, whose commands stand in it."""
    parts = [f"# {TITLE}", INTRODUCTION]
    for section, rows in sections:
        head = ["method", *(f"{axis.name}{_arrow(axis)}" for axis in section.axes)]
        best = _best(section.axes, rows)
        lines = [head, ["---"] * len(head)]
        lines += [
            [_method(row), *(_cell(row, axis, best) for axis in section.axes)] for row in rows
        ]
        parts += [
            f"## {section.title}",
            f"{section.setup} {_trials(section)}",
            "\n".join("| " + " | ".join(line) + " |" for line in lines),
            *(f"- {axis.name}: {axis.meaning}." for axis in section.axes),
            _lesson(section, rows),
            _commands(rows, root),
        ]
    return "\n\n".join(parts).replace(".\n\n- ", ".\n- ") + "\n"


def page(sections: Sections, plots: Mapping[str, Sequence[Path]], root: Path) -> str:
    """The whole HTML document. plots: by section."""
    parts = [f"<h1>{html.escape(TITLE)}</h1>", f"<p>{_inline(INTRODUCTION)}</p>"]
    for section, rows in sections:
        best = _best(section.axes, rows)
        head = "".join(
            f'<th title="{html.escape(axis.meaning)}">{html.escape(axis.name)}{_arrow(axis)}</th>'
            for axis in section.axes
        )
        body = "".join(
            f"<tr><td>{html.escape(_method(row))}</td>"
            + "".join(f"<td>{_marked(_cell(row, axis, best))}</td>" for axis in section.axes)
            + "</tr>"
            for row in rows
        )
        parts += [
            f"<h2>{html.escape(section.title)}</h2>",
            f"<p>{_inline(section.setup)} {_trials(section)}</p>",
            f"<table><tr><th>method</th>{head}</tr>{body}</table>",
            f"<p>{_inline(_lesson(section, rows))}</p>",
            *(_image(plot, root) for plot in plots.get(section.slug, ())),
            _commands(rows, root),
        ]
    head = f"<meta charset='utf-8'><title>{html.escape(TITLE)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>"


def write(text: str, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as temp:
        temp.write_text(text, encoding="utf-8")


def _method(row: Row) -> str:
    form = f", {row.method.form}" if row.method.form else ""
    rate = "" if row.rate is None else f" (lr {row.rate:g})"
    return f"{row.method.name}{form}{rate}"


def _trials(section: Section) -> str:
    """How the learning rates came about."""
    tried = max(len(method.rates) for method in section.methods)
    if tried < 2:
        return "The learning rates were not tuned."
    return (
        f"{tried} learning rates of each method were tried on a seed of their own, and the best on "
        f"{section.axes[0].name} was taken."
    )


def _arrow(axis: Axis) -> str:
    return {"higher": " ↑", "lower": " ↓", "none": ""}[axis.better]


def _best(axes: Sequence[Axis], rows: Sequence[Row]) -> dict[str, Interval]:
    """The best value of each axis that has a better side."""
    found = {}
    for axis in axes:
        values = [value for row in rows if (value := row.values[axis.name]) is not None]
        if values and axis.better != "none":
            choose = max if axis.better == "higher" else min
            found[axis.name] = choose(values, key=lambda value: value.mean)
    return found


def _cell(row: Row, axis: Axis, best: Mapping[str, Interval]) -> str:
    value = row.values[axis.name]
    if value is None:
        return "-"
    said = number(value.mean)
    if math.isfinite(value.low):
        said = f"{said} [{number(value.low)}, {number(value.high)}]"
    top = best.get(axis.name)
    return f"**{said}**" if top is not None and _is_level(value, top) else said


def _is_level(value: Interval, best: Interval) -> bool:
    """Whether the two intervals overlap; without intervals, whether they are equal."""
    if not (math.isfinite(value.low) and math.isfinite(best.low)):
        return value.mean == best.mean
    return value.low <= best.high and best.low <= value.high


def _lesson(section: Section, rows: Sequence[Row]) -> str:
    """One line: who is ahead on the first axis, who is last."""
    axis = section.axes[0]
    known = [(row, value.mean) for row in rows if (value := row.values[axis.name]) is not None]
    ordered = sorted(known, key=lambda one: one[1], reverse=axis.better == "higher")
    (first, best), (last, worst) = ordered[0], ordered[-1]
    return (
        f"On {axis.name}, **{_method(first)}** is ahead with {number(best)} and "
        f"{_method(last)} last with {number(worst)}; the order: "
        + ", ".join(f"{_method(row)} {number(value)}" for row, value in ordered)
        + "."
    )


def _commands(rows: Sequence[Row], root: Path) -> str:
    items, seconds = [], 0.0
    for row in rows:
        for cell in row.cells:
            about = json.loads((cell.directory(root) / ABOUT).read_text(encoding="utf-8"))
            seconds += about["seconds"]
            told = f"{duration(about['seconds'])}, commit {about['commit'] or 'unknown'}"
            items.append(
                f"<li><code>{html.escape(about['command'])}</code> {html.escape(told)}</li>"
            )
    said = f"{count(len(items), 'command')}, {duration(seconds)} in all"
    return f"<details><summary>{said}</summary><ol>{''.join(items)}</ol></details>"


def _image(plot: Path, root: Path) -> str:
    source = html.escape(os.path.relpath(plot, root))
    return f'<p><img src="{source}" alt="{html.escape(plot.stem)}"></p>'


def _marked(cell: str) -> str:
    """Markdown's bold, and the interval small."""
    bold, plain = cell.startswith("**"), cell.strip("*")
    mean, _, rest = plain.partition(" [")
    said = html.escape(mean) + (f" <small>[{html.escape(rest)}</small>" if rest else "")
    return f"<b>{said}</b>" if bold else said


def _inline(text: str) -> str:
    """Markdown's code and bold as HTML."""
    said = html.escape(text)
    for mark, tag in (("**", "b"), ("`", "code")):
        pieces = said.split(mark)
        said = "".join(f"<{tag}>{one}</{tag}>" if i % 2 else one for i, one in enumerate(pieces))
    return said
