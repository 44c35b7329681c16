"""A plot of a distribution over integers: the target, and the policy before and after.

Two panels share the integers but have separate vertical scales, because an untrained policy puts
more mass on one integer than a trained one on ten; both show the target.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gfn_ray.evaluation.plots.plotting import (
    AFTER,
    BEFORE,
    GRID,
    INK,
    MUTED,
    VERMILION,
    halo,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

PNG_SIZE = (2400, 1000)  # pixels: sharp when shown at 1200 x 500
_INCHES = (9.6, 4.0)
_DPI = PNG_SIZE[0] / _INCHES[0]
_LEFT, _RIGHT = 0.05, 0.945  # of the axes, as fractions of the width

_CAPTION_COLUMNS = 128
_LABELLED_PEAKS = 6
_DIGIT_WIDTH = 0.0085  # of a digit on a bar, as a fraction of the panel's width
_PEAK_RATIO = 2.0  # a bar this far above the target is labelled with its integer


def draw_histogram(
    path_stem: Path,
    values: Sequence[int],
    target: Array,
    before: Array,
    after: Array,
    title: str,
    caption: str,
) -> list[Path]:
    """Writes path_stem.png and path_stem.svg atomically; returns both paths.

    values [N]: consecutive integers, N >= 2. target, before, after [N]: their probabilities;
    before and after may sum to less than 1. caption: the line under the title.
    In the SVG the bars have the ids before-<integer> and after-<integer>.
    """
    target, before, after = (np.asarray(row, dtype=np.float64) for row in (target, before, after))
    _check(values, target=target, before=before, after=after)
    integers = np.asarray(values, dtype=np.int64)

    return save_figure(
        lambda: _figure(integers, target, before, after, title, caption), path_stem, title, _DPI
    )


def _check(values: Sequence[int], **rows: Array) -> None:
    if len(values) < 2 or any(b - a != 1 for a, b in itertools.pairwise(values)):
        raise ValueError("a histogram needs two or more consecutive integers")
    for name, row in rows.items():
        if row.shape != (len(values),):
            raise ValueError(f"{name} has shape {row.shape}, expected ({len(values)},)")
        if not (np.isfinite(row).all() and (row >= 0).all()):
            raise ValueError(f"{name} contains a number that is not a probability")


def _figure(
    values: IntArray, target: Array, before: Array, after: Array, title: str, caption: str
) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, facecolor="white")
    lines = textwrap.wrap(caption, _CAPTION_COLUMNS)
    words: dict[str, Any] = {"va": "top", "parse_math": False}
    figure.text(_LEFT, _from_top(0.12), title, size=12, weight="bold", color=INK, **words)
    figure.text(
        _LEFT, _from_top(0.37), "\n".join(lines), size=9, color=MUTED, linespacing=1.35, **words
    )
    upper, lower = figure.subplots(
        2,
        1,
        sharex=True,
        height_ratios=(1, 1.25),
        gridspec_kw={
            "left": _LEFT,
            "right": _RIGHT,
            "bottom": 1 - _from_top(0.3),
            "top": _from_top(0.7 + 0.17 * max(1, len(lines))),
            "hspace": 0.31,
        },
    )
    _panel(upper, "before", values, before, target)
    _panel(lower, "after", values, after, target)
    _head(upper, "Before training", "probability of each integer", MUTED)
    _head(lower, "After training", "probability of each integer, on a separate scale", AFTER)
    _name_target(upper, values, target, beside=False)
    _name_target(lower, values, target, beside=target[-1] < 0.1 * target.max())
    step = tick_step(len(values))
    if step > 1:
        _name_peaks(upper, values, before, target)
    upper.tick_params(axis="x", length=0, labelbottom=False)
    lower.set_xticks([v for v in range(int(values[0]), int(values[-1]) + 1) if v % step == 0])
    margin = 0.5 + 0.004 * len(values)
    lower.set_xlim(values[0] - margin, values[-1] + margin)
    return figure


def tick_step(count: int) -> int:
    """Returns the tick distance: 1, 2 or 5 times a power of ten, such as 10 for 0..100."""
    least = count / 12
    power = 10 ** max(0, math.floor(math.log10(least)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)


def _from_top(inches: float) -> float:
    """Returns a height in the figure, as a fraction."""
    return 1 - inches / _INCHES[1]


def _panel(axes: Axes, name: str, values: IntArray, policy: Array, target: Array) -> None:
    from matplotlib.ticker import MaxNLocator

    # Gaps between many bars would be thinner than a pixel.
    width = 0.78 if len(values) <= 200 else 1.0
    colour = {"before": BEFORE, "after": AFTER}[name]
    bars = axes.bar(values, policy, width=width, color=colour, linewidth=0, zorder=2)
    for value, bar in zip(values, bars, strict=True):
        bar.set_gid(f"{name}-{value}")
    edges = np.arange(values[0], values[-1] + 2) - 0.5
    line = axes.stairs(target, edges, baseline=None, color=VERMILION, linewidth=1.4, zorder=3)
    line.set_gid(f"{name}-target")
    axes.set_ylim(0, 1.15 * max(policy.max(), target.max()))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:.6g}%" if y else "0")
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set(color=MUTED, linewidth=0.7)
    axes.tick_params(axis="y", length=0, labelsize=8.5, labelcolor=MUTED)
    axes.tick_params(axis="x", length=3, color=MUTED, labelsize=8.5, labelcolor=INK)


def _head(axes: Axes, name: str, note: str, colour: str) -> None:
    """Writes the panel's name above its left end, and on the same line what its bars show."""
    offset: dict[str, Any] = {"textcoords": "offset points", "va": "baseline"}
    head = axes.annotate(
        name,
        (0, 1),
        (0, 5),
        xycoords="axes fraction",
        size=9.5,
        weight="bold",
        color=colour,
        **offset,
    )
    beside_head = (head, "axes fraction")
    axes.annotate(note, (1, 1), (6, 5), xycoords=beside_head, size=9, color=MUTED, **offset)


def _name_target(axes: Axes, values: IntArray, target: Array, *, beside: bool) -> None:
    """Writes "target" at the line's right end, or next to its slope if it ends near zero."""
    style: dict[str, Any] = {"textcoords": "offset points", "size": 9, "color": VERMILION}
    if not beside:
        right_end = (1, float(target[-1]))
        axes.annotate("target", right_end, (4, -3), xycoords=axes.get_yaxis_transform(), **style)
        return
    last = int(np.flatnonzero(target >= target.max() / 2)[-1])
    at = (values[last] + 0.5, float(target[last]))
    axes.annotate("target", at, (6, 3), path_effects=halo(), zorder=4, **style)


def _name_peaks(axes: Axes, values: IntArray, policy: Array, target: Array) -> None:
    """Writes the integer on the highest bars that stand out from the target."""
    named: list[int] = []
    words = [str(value).replace("-", "\N{MINUS SIGN}") for value in values]

    def collide(a: int, b: int) -> bool:
        room = _DIGIT_WIDTH / 2 * (len(words[a]) + len(words[b]) + 1)
        return abs(a - b) < room * len(values)

    for index in np.argsort(-policy, kind="stable")[: 2 * _LABELLED_PEAKS]:
        stands_out = policy[index] > _PEAK_RATIO * max(target[index], target.mean())
        if not stands_out or any(collide(index, other) for other in named):
            continue
        named.append(int(index))
        axes.annotate(
            words[index],
            (values[index], policy[index]),
            (0, 2),
            textcoords="offset points",
            ha="center",
            size=8.5,
            color=INK,
            path_effects=halo(),
            zorder=4,
        )
        if len(named) == _LABELLED_PEAKS:
            break
