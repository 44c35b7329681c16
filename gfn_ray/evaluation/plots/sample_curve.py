"""A plot of the accuracy of averaged predictions against the number of samples.

Baselines, which need no samples, are horizontal lines with their names on the right.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfn_ray.evaluation.plots.plotting import (
    AFTER,
    BEFORE,
    INK,
    MUTED,
    halo,
    plain_axes,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INCHES = (8.0, 4.6)
_DPI = 250.0
_CAPTION_COLUMNS = 112
_NAME_GAP = 0.045  # least distance between two names, as a share of the axis


def draw_sample_curve(
    path_stem: Path,
    samples: Sequence[int],
    before: Sequence[float],
    after: Sequence[float],
    baselines: Mapping[str, float],
    title: str,
    caption: str,
) -> list[Path]:
    """Writes path_stem.png and path_stem.svg atomically; returns both paths.

    samples [K]: ascending; before, after [K]: accuracy of the policy with that many. In the SVG
    the curves have the ids before and after.
    """
    if not samples or not len(samples) == len(before) == len(after):
        raise ValueError("a curve needs one value per number of samples, and at least one")

    def make() -> Figure:
        return _figure(samples, before, after, baselines, title, caption)

    return save_figure(make, path_stem, title, _DPI)


def _figure(
    samples: Sequence[int],
    before: Sequence[float],
    after: Sequence[float],
    baselines: Mapping[str, float],
    title: str,
    caption: str,
) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, facecolor="white")
    words: dict[str, Any] = {"va": "top", "parse_math": False}
    lines = textwrap.wrap(caption, _CAPTION_COLUMNS)
    figure.text(0.085, 0.97, title, size=12, weight="bold", color=INK, **words)
    figure.text(0.085, 0.91, "\n".join(lines), size=8.5, color=MUTED, linespacing=1.35, **words)
    axes = figure.add_axes((0.085, 0.12, 0.66, 0.72 - 0.04 * (len(lines) - 1)))
    x = range(len(samples))  # a log scale: numbers of samples double
    for name, values, colour in (("before", before, BEFORE), ("after", after, AFTER)):
        axes.plot(x, values, "-o", color=colour, markersize=5, gid=name, zorder=3)
    for value in baselines.values():
        axes.axhline(value, color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=2)
    axes.set_xticks(list(x), [str(s) for s in samples])
    axes.set_xlabel("rationales averaged over", size=9, color=INK)
    axes.set_ylabel("accuracy on test sentences", size=9, color=INK)
    axes.margins(x=0.04, y=0.15)
    plain_axes(axes)

    names = [
        ("GFlowNet, after", after[-1], AFTER),
        ("untrained, before", before[-1], BEFORE),
        *((name, value, MUTED) for name, value in baselines.items()),
    ]
    low, high = axes.get_ylim()
    lowest_free = 0.0
    for name, value, colour in sorted(names, key=lambda one: one[1]):
        place = max(lowest_free, (value - low) / (high - low))
        lowest_free = place + _NAME_GAP
        axes.annotate(
            f"{name} {value:.3f}",
            (1.015, place),
            xycoords="axes fraction",
            size=8.5,
            color=colour,
            va="center",
            path_effects=halo(),
        )
    return figure
