"""Small multiples of one distribution: the target behind, and in front what each method learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gfn_ray.comparison.coverage import Coverage
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

COLUMNS = 3
PANEL_INCHES = (3.2, 1.7)
DPI = 200


def draw_coverage(
    path_stem: Path, panels: Sequence[tuple[str, Coverage]], title: str
) -> list[Path]:
    """Writes path_stem.png and path_stem.svg; returns both paths. panels: a name and what it
    covers."""
    return save_figure(lambda: _figure(panels, title), path_stem, title, DPI)


def _figure(panels: Sequence[tuple[str, Coverage]], title: str) -> Figure:
    from matplotlib.figure import Figure

    rows = math.ceil(len(panels) / COLUMNS)
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * COLUMNS, height * rows + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    every = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True).ravel()
    for axes, (name, one) in zip(every, panels, strict=False):
        axes.fill_between(one.integers, one.target, step="mid", color=GRID, linewidth=0)
        axes.step(one.integers, one.target, where="mid", color=MUTED, linewidth=0.6)
        axes.bar(one.integers, one.after, width=1.0, color=AFTER, alpha=0.75)
        axes.set_title(name, fontsize=9, color=INK, loc="left")
        axes.set_ylim(0, max(2 * float(one.target.max()), 1e-9))
        plain_axes(axes)
    for axes in every[len(panels) :]:
        axes.set_visible(False)
    return figure
