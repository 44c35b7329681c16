"""A plot of likelihood and diversity, with one point per decoder or policy.

Every point has a label; labels avoid points and each other.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gfn_ray.evaluation.plots.plotting import AFTER, GRID, INK, MUTED, VERMILION, halo, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PNG_SIZE = (2000, 1400)  # pixels
_INCHES = (8.0, 5.6)
_DPI = PNG_SIZE[0] / _INCHES[0]
_CAPTION_COLUMNS = 112
_POINT_SIZE = 8.0  # a dot's diameter, in points of 1/72 inch
_NAME_HEIGHT, _LETTER_WIDTH = 11.0, 5.4  # of a name at size 9, in points
_GAP = 4.0  # between a dot and its name, in points

Role = Literal["decoder", "before", "after"]
_COLOURS: dict[Role, str] = {"decoder": MUTED, "before": VERMILION, "after": AFTER}
_Box = tuple[float, float, float, float]  # left, bottom, right, top, in points


@dataclass(frozen=True)
class Mark:
    """A point of the plot. log_p: mean over queries, in nats. diversity: 0 if all z of a
    query are alike. role: a decoder of the frozen model, or the policy before or after."""

    label: str
    log_p: float
    diversity: float
    role: Role

    @staticmethod
    def of(label: str, metrics: Mapping[str, float], role: Role) -> Mark:
        """Makes a mark from metrics with log_p_mean and diversity."""
        return Mark(label, metrics["log_p_mean"], metrics["diversity"], role)


def draw_diversity(
    path_stem: Path,
    marks: Sequence[Mark],
    title: str,
    caption: str,
    joined: Sequence[Sequence[int]] = (),
) -> list[Path]:
    """Writes path_stem.png and path_stem.svg atomically; returns both paths.

    joined: series of indices of marks, each drawn as a line. In the SVG the points have the ids
    point-<index>.
    """
    if not marks:
        raise ValueError("a plot needs at least one mark")
    return save_figure(lambda: _figure(marks, title, caption, joined), path_stem, title, _DPI)


def _figure(
    marks: Sequence[Mark], title: str, caption: str, joined: Sequence[Sequence[int]]
) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, facecolor="white")
    words: dict[str, Any] = {"va": "top", "parse_math": False}
    lines = textwrap.wrap(caption, _CAPTION_COLUMNS)
    figure.text(0.085, 0.97, title, size=12, weight="bold", color=INK, **words)
    figure.text(0.085, 0.925, "\n".join(lines), size=8.5, color=MUTED, linespacing=1.35, **words)
    axes = figure.add_axes((0.085, 0.1, 0.885, 0.78 - 0.033 * (len(lines) - 1)))
    axes.margins(x=0.12, y=0.1)
    for series in joined:
        axes.plot(
            [marks[i].log_p for i in series],
            [marks[i].diversity for i in series],
            color=_COLOURS[marks[series[0]].role] if series else MUTED,
            linewidth=1.1,
            alpha=0.55,
            zorder=2,
        )
    for index, mark in enumerate(marks):
        axes.plot(
            [mark.log_p],
            [mark.diversity],
            "o",
            markersize=_POINT_SIZE if mark.role == "decoder" else 1.25 * _POINT_SIZE,
            color=_COLOURS[mark.role],
            markeredgecolor="white",
            zorder=3,
            gid=f"point-{index}",
        )
    axes.set_xlabel(
        "mean log-likelihood of a sample under the frozen model, nats", size=9, color=INK
    )
    axes.set_ylabel("diversity: 1 \N{MINUS SIGN} mean cosine between samples", size=9, color=INK)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("bottom", "left"))
        spine.set(color=MUTED, linewidth=0.7)
    axes.tick_params(length=3, color=MUTED, labelsize=8.5, labelcolor=MUTED)
    _name(axes, marks)
    return figure


def _name(axes: Axes, marks: Sequence[Mark]) -> None:
    """Writes each mark's name at the first free place around it, the policies' names first."""
    axes.autoscale_view()  # or places would refer to the unit square
    points = 72 / axes.figure.dpi
    centres = [axes.transData.transform((m.log_p, m.diversity)) * points for m in marks]
    radius = _POINT_SIZE / 2
    taken: list[_Box] = [
        (x - radius, y - radius, x + radius, y + radius) for x, y in map(tuple, centres)
    ]
    frame = axes.get_window_extent()
    edges = (frame.x0 * points, frame.x1 * points)
    for index in sorted(range(len(marks)), key=lambda i: marks[i].role == "decoder"):
        mark, (x, y) = marks[index], centres[index]
        places = _places(x, y, _LETTER_WIDTH * len(mark.label))
        box = min(places, key=lambda b: (_overlaps(b, taken, edges), places.index(b)))
        taken.append(box)
        axes.annotate(
            mark.label,
            (mark.log_p, mark.diversity),
            (box[0] - x, (box[1] + box[3]) / 2 - y),
            textcoords="offset points",
            va="center",
            size=9,
            weight="normal" if mark.role == "decoder" else "bold",
            color=_COLOURS[mark.role],
            path_effects=halo(),
            zorder=4,
            parse_math=False,
        )


def _places(x: float, y: float, width: float) -> list[_Box]:
    """Returns boxes for a name around a point: beside it, above and below, then farther away."""
    found = []
    for far in (_GAP, 2.5 * _GAP, 5 * _GAP):
        beside, above = _POINT_SIZE / 2 + far, _NAME_HEIGHT / 2 + _POINT_SIZE / 2 + far
        for left, middle in (
            (x + beside, y),
            (x - beside - width, y),
            (x - width / 2, y + above),
            (x - width / 2, y - above),
            (x + beside, y + above),
            (x + beside, y - above),
            (x - beside - width, y + above),
            (x - beside - width, y - above),
        ):
            box = (left, middle - _NAME_HEIGHT / 2, left + width, middle + _NAME_HEIGHT / 2)
            found.append(box)
    return found


def _overlaps(box: _Box, taken: Sequence[_Box], edges: tuple[float, float]) -> int:
    """Counts the boxes that this one overlaps; the frame's sides count as boxes, too."""
    meets = sum(
        box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
        for other in taken
    )
    return meets + (box[0] < edges[0]) + (box[2] > edges[1])
