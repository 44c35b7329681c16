"""The kept figures as tables in docs/performance.md.

    python benchmarks/render.py

Owns the reading of benchmarks/results.jsonl, the goals, and what stands between the two markers
of that page. Of each figure, the newest record is shown.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from gfn_ray.formatting import number
from gfn_ray.storage.atomic import atomic_file
from measure import RESULTS, ROOT, Figure, Growth, Record

DOCS = ROOT / "docs" / "performance.md"
BEGIN = "<!-- figures: from benchmarks/results.jsonl, by benchmarks/render.py -->"
END = "<!-- figures end -->"
NOTHING = "Nothing is recorded yet: `make bench ARGS=--record`."

# What a figure is meant to reach, by its name.
GOALS = {
    "step": "≥ 15x",
    "reward": "≥ 4x",
    "sampler, batch 64": "≥ 1.5x",
    "replay, adds": "≥ 20,000 trajectories/s",
    "replay, batches": "≥ 2,000 batches/s",
    "replay, batches through Ray": "≥ 300 batches/s",
    "posterior, TV .1": "≥ 10x",
    "posterior, TV .05": "≥ 10x",
    "weights, swap": "≤ 0.05 s",
    "roofline, float32": "≤ 2.5x",
    "roofline, float32, sampler": "≤ 1.5x",
    "roofline, float32, reward": "≤ 1.5x",
    "roofline, float32, learner": "≤ 1.5x",
}


def read(text: str) -> list[Record]:
    """Every record of a results file. Raises ValueError, with its line, for one that has not all
    fields of its kind, or others."""
    found: list[Record] = []
    for place, line in enumerate(text.splitlines(), start=1):
        raw: dict[str, Any] = json.loads(line)
        kind = Growth if "exponent" in raw else Figure
        expected = {one.name for one in fields(kind)}
        if raw.keys() != expected:
            wrong = sorted(raw.keys() ^ expected)
            raise ValueError(f"line {place}: missing, or not of a {kind.__name__}: {wrong}")
        found.append(kind(**raw))
    return found


def tables(records: list[Record]) -> str:
    """Markdown: a heading a machine, and below it a table of each kind."""
    if not records:
        return NOTHING
    newest = list({one.name: one for one in records}.values())
    parts = []
    for machine in dict.fromkeys(one.machine for one in newest):
        here = [one for one in newest if one.machine == machine]
        parts.append(f"On {machine}:")
        ratios = [_figure_row(one) for one in here if isinstance(one, Figure)]
        powers = [_growth_row(one) for one in here if isinstance(one, Growth)]
        if ratios:
            heads = "figure|ours|other|ratio (of rounds)|rounds|goal|date|commit"
            parts.append(_table(heads, ratios))
        if powers:
            heads = "figure|exponent (of rounds)|points|rounds|date|commit"
            parts.append(_table(heads, powers))
    return "\n\n".join(parts)


def rendered(page: str, records: list[Record]) -> str:
    """The page with fresh tables between its markers."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{DOCS.name} has no {BEGIN} followed by {END}")
    return f"{before}{BEGIN}\n{tables(records)}\n{END}{after}"


def render() -> None:
    """Brings the page up to date."""
    page = rendered(DOCS.read_text(), kept())
    with atomic_file(DOCS) as file:
        file.write_text(page)


def kept() -> list[Record]:
    return read(RESULTS.read_text()) if RESULTS.exists() else []


def _figure_row(one: Figure) -> list[str]:
    return [
        one.name,
        f"{number(one.ours)} {one.unit}",
        f"{number(one.other)} {one.unit}",
        f"{number(one.ratio)}x ({number(one.spread[0])} to {number(one.spread[1])})",
        str(one.runs),
        GOALS.get(one.name, ""),
        one.date,
        one.commit,
    ]


def _growth_row(one: Growth) -> list[str]:
    return [
        one.name.replace("|", "\\|"),  # as in |z|: a table has bars of its own
        f"{one.exponent:.2f} ({one.spread[0]:.2f} to {one.spread[1]:.2f})",
        ", ".join(f"{number(y)} {one.unit} at {x:,g}" for x, y in one.points),
        str(one.runs),
        one.date,
        one.commit,
    ]


def _table(heads: str, rows: list[list[str]]) -> str:
    columns = heads.split("|")
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines).replace("| --- ", "|---")


if __name__ == "__main__":
    render()
