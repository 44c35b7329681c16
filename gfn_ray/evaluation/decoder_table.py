"""A table of the policy and the baselines of the same frozen model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from gfn_ray.formatting import number

COLUMNS = 4  # metrics that fit next to a name in 80 characters


def fill_decoder_table(table: Table, summary: Mapping[str, Any], names: list[str]) -> Table:
    """Adds a row for each of summary["baselines"], and for the policy before and after.

    names: metrics in display order; the first few that baselines have are shown.
    """
    baselines: Mapping[str, Mapping[str, float]] = summary["baselines"]
    measured = {name for metrics in baselines.values() for name in metrics}
    shown = [name for name in names if name in measured][:COLUMNS]
    table.add_column("baseline", no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    rows = [
        *((name, metrics, "") for name, metrics in baselines.items()),
        ("sampling (before)", summary["before"], ""),
        ("GFlowNet (after)", summary["after"], "bold"),
    ]
    for name, metrics, style in rows:
        cells = [Text(number(metrics.get(column)), style=style) for column in shown]
        table.add_row(Text(name, style=style), *cells)
    return table
