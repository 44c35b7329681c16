"""A plot of exact posterior draws beside the policy's samples: their ranks, and their lengths.

At the posterior a draw may have any rank among samples, and both are as long.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gfn_ray.evaluation.calibration import Array, SimulatedScores, judge, ranks
from gfn_ray.evaluation.plots.plotting import (
    AFTER,
    BEFORE,
    INK,
    MUTED,
    plain_axes,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INCHES = (9.0, 4.6)
_DPI = 250.0
_CAPTION_COLUMNS = 126


@dataclass(frozen=True)
class Side:
    """The queries of one evaluation. ranks [N]: share of samples below z*. exact, sampled [N]:
    tokens of z*, and mean tokens of the samples."""

    ranks: Array
    exact: Array
    sampled: Array

    @staticmethod
    def of(each: Sequence[SimulatedScores], temperature: float) -> Side:
        return Side(
            ranks(judge(each, temperature)[0]),
            np.array([one.tokens[0] for one in each]),
            np.array([one.tokens[1:].mean() for one in each]),
        )


def draw_calibration(
    path_stem: Path, before: Side, after: Side, samples: int, title: str, caption: str
) -> list[Path]:
    """Writes path_stem.png and path_stem.svg atomically; returns both paths. samples: per query."""
    return save_figure(
        lambda: _figure(before, after, samples, title, caption), path_stem, title, _DPI
    )


def _figure(before: Side, after: Side, samples: int, title: str, caption: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, facecolor="white")
    words: dict[str, Any] = {"va": "top", "parse_math": False}
    lines = "\n".join(textwrap.wrap(caption, _CAPTION_COLUMNS))
    figure.text(0.065, 0.97, title, size=12, weight="bold", color=INK, **words)
    figure.text(0.065, 0.905, lines, size=8.5, color=MUTED, linespacing=1.35, **words)
    _draw_ranks(figure.add_axes((0.065, 0.12, 0.40, 0.60)), before, after, samples)
    _draw_lengths(figure.add_axes((0.56, 0.12, 0.40, 0.60)), before, after)
    return figure


def _draw_ranks(axes: Any, before: Side, after: Side, samples: int) -> None:
    """Bars of the share of queries by how many of their samples are below z*."""
    x = np.arange(samples + 1)
    for side, shift, colour, name in (
        (before, -0.2, BEFORE, "before"),
        (after, 0.2, AFTER, "after"),
    ):
        # Half a tie goes up: a rank between two counts is the upper one.
        counts = np.ceil(side.ranks * samples - 1e-9).astype(int)
        shares = np.bincount(counts, minlength=samples + 1) / len(counts)
        axes.bar(x + shift, shares, 0.38, color=colour, label=name)
    axes.axhline(1 / (samples + 1), color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    axes.set_xticks(x)
    axes.set_xlabel("samples with less R/q than the exact draw", size=9, color=INK)
    axes.set_ylabel("share of queries (dashed: at the posterior)", size=9, color=INK)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    plain_axes(axes)


def _draw_lengths(axes: Any, before: Side, after: Side) -> None:
    """A dot a query: tokens of its exact draw and of its samples."""
    longest = max(float(np.max([s.exact.max(), s.sampled.max()])) for s in (before, after)) + 1
    axes.plot([0, longest], [0, longest], color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
    for side, colour, name in ((before, BEFORE, "before"), (after, AFTER, "after")):
        axes.plot(side.exact, side.sampled, "o", color=colour, markersize=4, gid=f"{name}-lengths")
    axes.set_xlim(0, longest)
    axes.set_ylim(0, longest)
    axes.set_xlabel("tokens of the exact draw", size=9, color=INK)
    axes.set_ylabel("tokens of the samples, mean", size=9, color=INK)
    plain_axes(axes)
