"""Methods one below the other, a panel for each axis: one dot a seed, and the mean's interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gfn_ray.comparison.results import Row
from gfn_ray.comparison.section import Axis
from gfn_ray.evaluation.plots.plotting import (
    AFTER,
    GRID,
    INK,
    MUTED,
    plain_axes,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES_INCHES, PANEL_INCHES, ROW_INCHES = 2.2, 2.6, 0.24
DPI = 200


def draw_methods(
    path_stem: Path, axes: Sequence[Axis], rows: Sequence[Row], title: str
) -> list[Path]:
    """Writes path_stem.png and path_stem.svg; returns both paths."""
    return save_figure(lambda: _figure(axes, rows, title), path_stem, title, DPI)


def _figure(axes: Sequence[Axis], rows: Sequence[Row], title: str) -> Figure:
    from matplotlib.figure import Figure

    size = (NAMES_INCHES + PANEL_INCHES * len(axes), ROW_INCHES * len(rows) + 1.0)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    panels = figure.subplots(1, len(axes), squeeze=False, sharey=True).ravel()
    for panel, axis in zip(panels, axes, strict=True):
        for place, row in enumerate(rows):
            if (value := row.values[axis.name]) is None:
                continue
            if math.isfinite(value.interval.low):
                ends = [value.interval.low, value.interval.high]
                panel.plot(ends, [place, place], color=MUTED, linewidth=1.2, zorder=2)
            heights = [place] * len(value.numbers)
            panel.scatter(value.numbers, heights, s=16, color=AFTER, alpha=0.8, zorder=3)
        better = {"higher": " (right is better)", "lower": " (left is better)", "none": ""}
        panel.set_title(f"{axis.name}{better[axis.better]}", fontsize=9, color=INK, loc="left")
        plain_axes(panel)
        panel.grid(axis="x", color=GRID, linewidth=0.7)
        panel.set_yticks(range(len(rows)), [row.title for row in rows])
        panel.set_ylim(len(rows) - 0.5, -0.5)
    return figure
