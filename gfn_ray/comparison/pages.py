"""The pages of a comparison: one table a section as Markdown, and the same as HTML with plots.

Everything on them is read from records; behind every row stand its commands.
"""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from gfn_ray.comparison import words
from gfn_ray.comparison.records import Record
from gfn_ray.comparison.results import Row
from gfn_ray.comparison.section import Section
from gfn_ray.formatting import count, duration

Sections = Sequence[tuple[Section, list[Row]]]

TITLE = "GFlowNet training beside other methods"
INTRODUCTION = (
    "Made by `make comparison` from the records of finished runs; no number is typed. A mean over "
    "seeds stands with its 95 % t interval. Bold are the best of a column and what seeds do not "
    "tell from it: Welch's 95 % interval of the difference holds 0. A row of one seed has no "
    "interval, and its bold says nothing of chance."
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


def markdown(sections: Sections) -> str:
    """The whole document."""
    parts = [f"# {TITLE}", INTRODUCTION]
    for section, rows in sections:
        heads = words.heads(section)
        lines = [["method", *(name for name, _ in heads)], ["---"] * (len(heads) + 1)]
        lines += [
            [row.title, *map(_in_markdown, cells)]
            for row, cells in zip(rows, words.cells(section, rows), strict=True)
        ]
        parts += [
            f"## {section.title}",
            f"{section.setup} {words.tried(section)}",
            "\n".join("| " + " | ".join(line) + " |" for line in lines),
            "\n".join(f"- {axis.name}: {axis.meaning}." for axis in section.axes),
            words.lesson(section, rows),
            _commands(rows),
        ]
    return "\n\n".join(parts) + "\n"


def page(sections: Sections, plots: Mapping[str, Path], root: Path) -> str:
    """The whole HTML document, which lies in root. plots: by section."""
    parts = [f"<h1>{html.escape(TITLE)}</h1>", f"<p>{_inline(INTRODUCTION)}</p>"]
    for section, rows in sections:
        head = "".join(
            f'<th title="{html.escape(meaning)}">{html.escape(name)}</th>'
            for name, meaning in words.heads(section)
        )
        body = "".join(
            f"<tr><td>{html.escape(row.title)}</td>"
            + "".join(f"<td>{_in_html(cell)}</td>" for cell in cells)
            + "</tr>"
            for row, cells in zip(rows, words.cells(section, rows), strict=True)
        )
        parts += [
            f"<h2>{html.escape(section.title)}</h2>",
            f"<p>{_inline(section.setup)} {words.tried(section)}</p>",
            f"<table><tr><th>method</th>{head}</tr>{body}</table>",
            f"<p>{_inline(words.lesson(section, rows))}</p>",
            *([_image(plots[section.slug], root)] if section.slug in plots else []),
            _commands(rows),
        ]
    head = f"<meta charset='utf-8'><title>{html.escape(TITLE)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>"


def _commands(rows: Sequence[Row]) -> str:
    """Every run behind the rows, those that decided a learning rate included."""
    found = [(record, "") for row in rows for record in row.records]
    found += [(record, " (trial)") for row in rows for record in row.trials]
    items = [f"<li>{_command(record)}{kind}</li>" for record, kind in found]
    seconds = sum(record.seconds for record, _ in found)
    said = f"{count(len(items), 'command')}, {duration(seconds)} in all"
    return f"<details><summary>{said}</summary><ol>{''.join(items)}</ol></details>"


def _command(record: Record) -> str:
    where = f"{record.machine['cpu']}, {count(record.machine['cores'], 'core')}"
    commit = record.commit or "unknown"
    told = f"{duration(record.seconds)}, commit {commit}, {record.date}, {where}"
    return f"<code>{html.escape(record.command)}</code> {html.escape(told)}"


def _image(plot: Path, root: Path) -> str:
    source = html.escape(os.path.relpath(plot, root))
    return f'<p><img src="{source}" alt="{html.escape(plot.stem)}"></p>'


def _in_markdown(cell: words.Cell) -> str:
    said = f"**{cell.said}**" if cell.best else cell.said
    return f"{said} {cell.aside}".strip()


def _in_html(cell: words.Cell) -> str:
    said = f"<b>{cell.said}</b>" if cell.best else cell.said
    return f"{said} <small>{cell.aside}</small>" if cell.aside else said


def _inline(text: str) -> str:
    """Markdown's code and bold as HTML."""
    said = html.escape(text)
    for mark, tag in (("**", "b"), ("`", "code")):
        pieces = said.split(mark)
        said = "".join(f"<{tag}>{one}</{tag}>" if i % 2 else one for i, one in enumerate(pieces))
    return said
