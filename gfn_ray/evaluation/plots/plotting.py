"""Shared parts of all plots: colours, and saving figures.

Equal input gives equal bytes with the same version of matplotlib, which is loaded for the first
plot; its global state (backend, pyplot, settings) is left unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfn_ray.storage.atomic import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's blue and vermilion: distinguishable with any colour vision.
BEFORE = "#9AA3AB"
AFTER = "#0072B2"
VERMILION = "#D55E00"
INK = "#22272B"
MUTED = "#5C656D"
GRID = "#E6E9EB"


def save_figure(
    make: Callable[[], Figure], path_stem: Path, title: str, dots_per_inch: float
) -> list[Path]:
    """Writes path_stem.png and path_stem.svg atomically; returns both paths.

    make: draws the figure; called once, under the settings that all plots share.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    # matplotlib's own font, and a fixed salt for SVG ids, which are random otherwise.
    style: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "svg.hashsalt": "gfn_ray",
        "svg.fonttype": "path",
    }
    with matplotlib.rc_context(style):
        figure = make()
        png = path_stem.with_name(path_stem.name + ".png")
        svg = path_stem.with_name(path_stem.name + ".svg")
        FigureCanvasAgg(figure)
        with atomic_file(png) as temp:
            figure.savefig(temp, format="png", dpi=dots_per_inch, metadata={"Software": None})
        FigureCanvasSVG(figure)
        with atomic_file(svg) as temp:
            figure.savefig(temp, format="svg", metadata={"Date": None, "Title": title})
    return [png, svg]


def halo() -> list[Any]:
    """Returns a white outline that keeps words legible on lines and bars."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.5, foreground="white")]


def plain_axes(axes: Any) -> None:
    """Horizontal lines behind the data, and spines at the bottom and on the left only."""
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("bottom", "left"))
        spine.set(color=MUTED, linewidth=0.7)
    axes.tick_params(length=3, color=MUTED, labelsize=8.5, labelcolor=MUTED)
