"""The picture of accuracy against the length of a problem, before and after training.

Owns layout, colours and the files; matplotlib is loaded on the first drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfn_ray.durable import atomic_file

_BEFORE, _AFTER = "#9AA3AB", "#0072B2"  # as in histogram.py
_INK, _MUTED, _GRID = "#22272B", "#5C656D", "#E6E9EB"
_INCHES, _DPI = (7.2, 4.2), 200


@dataclass(frozen=True)
class LengthAccuracy:
    """Share of the problems with this many operands that are answered right, and its interval."""

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
    """Write path_stem.png and path_stem.svg, each whole or not at all; returns both paths."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "svg.hashsalt": "gfn_ray",
        "svg.fonttype": "path",
    }
    png, svg = (path_stem.with_name(path_stem.name + end) for end in (".png", ".svg"))
    with matplotlib.rc_context(style):
        figure = Figure(figsize=_INCHES, facecolor="white")
        figure.text(0.09, 0.95, title, size=11, weight="bold", color=_INK, va="top")
        figure.text(0.09, 0.885, caption, size=7.5, color=_MUTED, va="top")
        axes = figure.add_axes((0.09, 0.12, 0.87, 0.68))
        for rows, colour, name in ((before, _BEFORE, "untrained"), (after, _AFTER, "trained")):
            places = [row.operands for row in rows]
            shares = [100 * row.share for row in rows]
            spans = [
                [100 * (row.share - row.low) for row in rows],
                [100 * (row.high - row.share) for row in rows],
            ]
            axes.errorbar(places, shares, yerr=spans, color=colour, capsize=3, marker="o", lw=1.6)
            axes.annotate(
                name,
                (places[-1], shares[-1]),
                xytext=(8, 0),
                textcoords="offset points",
                color=colour,
                va="center",
            )
        counts = [row.operands for row in after]
        axes.set_xticks(counts)
        axes.set_xlim(min(counts) - 0.3, max(counts) + 0.9)
        axes.set_ylim(-3, 103)
        axes.set_xlabel("operands", color=_INK)
        axes.set_ylabel("% answered right", color=_INK)
        axes.grid(axis="y", color=_GRID)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        FigureCanvasAgg(figure)
        with atomic_file(png) as temp:
            figure.savefig(temp, format="png", dpi=_DPI, metadata={"Software": None})
        FigureCanvasSVG(figure)
        with atomic_file(svg) as temp:
            figure.savefig(temp, format="svg", metadata={"Date": None, "Title": title})
    return [png, svg]
