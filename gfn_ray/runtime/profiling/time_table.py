"""Where the time went, as a table: how long each actor worked, and what it waited for.

An actor's work, transit and idle time add up to the window. In transit: it is not working, but a
call is on its way to it or an answer on its way back. Idle: there is no call for it, because
another stage is slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gfn_ray.runtime.profiling.spans import Interval, Span, length

_NAME_WIDTH = 28
_HEADINGS = ("work %", "transit %", "idle %", "CPU s", "calls", "median ms", "p95 ms")
_WIDTHS = (8, 11, 8, 8, 8, 11, 9)


@dataclass(frozen=True)
class Row:
    """Seconds of one actor, or of one kind of its calls; the latter have no transit and idle."""

    name: str
    work: float
    transit: float | None
    idle: float | None
    cpu: float
    calls: int
    median: float | None
    p95: float | None


def actor_rows(actor: str, spans: Sequence[Span], window: Interval) -> list[Row]:
    """One actor's row, then one per kind of call if there are several. spans: not clipped to the
    window, so that no duration is cut short."""
    spans = [span for span in spans if span.within(window) is not None]
    inside = [piece for span in spans if (piece := span.within(window)) is not None]
    worked = length(piece.work for piece in inside if piece.work is not None)
    asked = length((piece.sent, piece.taken) for piece in inside)
    whole = window[1] - window[0]
    # Only rounding can make these negative.
    times = {"transit": max(0.0, asked - worked), "idle": max(0.0, whole - asked)}
    rows = [_row(actor, spans, window, worked, **times)]
    kinds = list(dict.fromkeys(span.what for span in spans))
    if len(kinds) > 1:
        for kind in kinds:
            own = [span for span in spans if span.what == kind]
            pieces = [one.within(window) for one in own]
            work = length(one.work for one in pieces if one is not None and one.work is not None)
            rows.append(_row(f"  {kind}", own, window, work, transit=None, idle=None))
    return rows


def controller_row(pieces: Sequence[Interval], cpu: float, answers: int, window: Interval) -> Row:
    """pieces: of its work, inside the window. Its calls are the answers it took."""
    work = length(pieces)
    idle = max(0.0, window[1] - window[0] - work)
    return Row("controller", work, None, idle, cpu, answers, *_spread(pieces))


def table(rows: Sequence[Row], window: Interval) -> str:
    """The rows as lines of text."""
    whole = window[1] - window[0]
    lines = [
        f"where {whole:.1f} s of training went",
        "".ljust(_NAME_WIDTH)
        + "".join(h.rjust(w) for h, w in zip(_HEADINGS, _WIDTHS, strict=True)),
    ]
    for row in rows:
        shares = [_percent(one, whole) for one in (row.work, row.transit, row.idle)]
        cells = [*shares, f"{row.cpu:.1f}", f"{row.calls:,}", _ms(row.median), _ms(row.p95)]
        name = row.name[:_NAME_WIDTH].ljust(_NAME_WIDTH)
        lines.append(name + "".join(c.rjust(w) for c, w in zip(cells, _WIDTHS, strict=True)))
    return "\n".join(lines)


def _row(
    name: str,
    spans: Sequence[Span],
    window: Interval,
    work: float,
    *,
    transit: float | None,
    idle: float | None,
) -> Row:
    pieces = [(span, piece) for span in spans if (piece := span.within(window)) is not None]
    whole = [
        span.work for span, piece in pieces if span.work is not None and piece.work is not None
    ]
    cpu = sum(piece.cpu for _, piece in pieces)
    return Row(name, work, transit, idle, cpu, len(pieces), *_spread(whole))


def _spread(intervals: Sequence[Interval]) -> tuple[float | None, float | None]:
    """Median and 95th percentile of the lengths."""
    if not intervals:
        return None, None
    seconds = [high - low for low, high in intervals]
    return float(np.median(seconds)), float(np.percentile(seconds, 95))


def _percent(seconds: float | None, whole: float) -> str:
    return "" if seconds is None else f"{100 * seconds / whole if whole else 0.0:.1f}"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:,.1f}"
