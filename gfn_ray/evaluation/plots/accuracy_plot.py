"""A plot of accuracy against the length of a problem, before and after training.

Colours and files are in `plotting.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gfn_ray.evaluation.plots.plotting import AFTER, BEFORE, GRID, INK, MUTED, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_APART = 0.006  # of the panel's width, between the intervals of the two lines
_INCHES, _DPI = (7.2, 4.2), 200


@dataclass(frozen=True)
class LengthAccuracy:
    """Share of problems with this many operands that are answered right, and its interval."""

    operands: int
    problems: int
    share: float
    low: float
    high: float


def draw_accuracy(
    path_stem: Path,
    before: Sequence[LengthAccuracy],
    after: Sequence[LengthAccuracy],
    title: str,
    caption: str,
) -> list[Path]:
    """Writes path_stem.png and path_stem.svg atomically; returns both paths."""
    return save_figure(lambda: _figure(before, after, title, caption), path_stem, title, _DPI)


def _figure(
    before: Sequence[LengthAccuracy], after: Sequence[LengthAccuracy], title: str, caption: str
) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, facecolor="white")
    figure.text(0.09, 0.95, title, size=11, weight="bold", color=INK, va="top")
    figure.text(0.09, 0.885, caption, size=7.5, color=MUTED, va="top")
    axes = figure.add_axes((0.09, 0.12, 0.87, 0.63))
    counts = [row.operands for row in after]
    first, last = min(counts) - 0.3, max(counts) + 0.3
    apart = _APART * (last - first)
    lines = (
        (before, BEFORE, "before training", -apart),
        (after, AFTER, "after training", apart),
    )
    for rows, colour, name, aside in lines:
        places = [row.operands + aside for row in rows]
        shares = [100 * row.share for row in rows]
        spans = [
            [100 * (row.share - row.low) for row in rows],
            [100 * (row.high - row.share) for row in rows],
        ]
        axes.errorbar(
            places, shares, yerr=spans, color=colour, capsize=3, marker="o", lw=1.6, label=name
        )
    axes.set_xticks(counts)
    axes.set_xlim(first, last)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("operands", color=INK)
    axes.set_ylabel("% answered right", color=INK)
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    # Above the panel, where neither a line nor an interval can cross it.
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, labelcolor="linecolor"
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure
