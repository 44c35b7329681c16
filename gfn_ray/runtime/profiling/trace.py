"""Spans as a trace for ui.perfetto.dev and chrome://tracing.

One "process" per actor and one for the controller. Its first row shows the work; the rows below
show calls waiting for it and answers waiting to be taken, one row per simultaneous wait, and for
the controller what training waited for between updates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gfn_ray.runtime.profiling.spans import Interval, Span

Event = dict[str, Any]

_Piece = tuple[str, str, Interval, Mapping[str, Any]]
"""Name, category, interval, further arguments."""

# Perfetto treats the same thread number in several processes as one thread.
_ROWS_A_PROCESS = 1000
_WORK_ROW = 0


def trace(
    spans: Mapping[str, Sequence[Span]],
    controller: Sequence[tuple[str, Interval]],
    window: Interval,
    pauses: Sequence[tuple[str, Interval]] = (),
) -> dict[str, Any]:
    """The whole trace, with times relative to the window's start.

    spans: by actor, inside the window. controller: named pieces of the controller's work. pauses:
    of training, by what it waited for.
    """
    names: list[Event] = []
    events: list[Event] = []
    pieces: list[_Piece] = [(name, "work", piece, {}) for name, piece in controller]
    between: list[_Piece] = [(name, "pause", pause, {}) for name, pause in pauses]
    rows: dict[str, list[list[_Piece]]] = {"controller": [pieces, *_lanes(between)]}
    rows |= {actor: [_works(own), *_lanes(_waits(own))] for actor, own in spans.items()}
    for pid, (actor, lanes) in enumerate(rows.items(), start=1):
        names.append(_name("process_name", pid, 0, name=actor))
        names.append(_name("process_sort_index", pid, 0, sort_index=pid))
        for row, lane in enumerate(lanes):
            tid = pid * _ROWS_A_PROCESS + row
            label = "works" if row == _WORK_ROW else "waits" if row == 1 else f"waits {row}"
            names.append(_name("thread_name", pid, tid, name=label))
            names.append(_name("thread_sort_index", pid, tid, sort_index=row))
            events += [_event(piece, pid, tid, window[0]) for piece in lane]
    events.sort(key=lambda event: (event["ts"], -event["dur"]))
    return {"traceEvents": [*names, *events], "displayTimeUnit": "ms"}


def _works(spans: Sequence[Span]) -> list[_Piece]:
    return [
        (
            span.what,
            "work",
            span.work,
            {
                "cpu_seconds": round(span.cpu, 6),
                "waited_ms": round(1e3 * (span.work[0] - span.sent), 3),
                "until_taken_ms": round(1e3 * (span.taken - span.work[1]), 3),
            },
        )
        for span in spans
        if span.work is not None
    ]


def _waits(spans: Sequence[Span]) -> list[_Piece]:
    found: list[_Piece] = []
    for span in spans:
        if span.work is None:
            found.append((f"{span.what}: sent", "wait", (span.sent, span.taken), {}))
            continue
        began, ended = span.work
        found.append((f"{span.what}: sent", "wait", (span.sent, began), {}))
        found.append((f"{span.what}: answered", "wait", (ended, span.taken), {}))
    return [piece for piece in found if _microseconds(piece[2][1] - piece[2][0])]


def _lanes(pieces: list[_Piece]) -> list[list[_Piece]]:
    """Arranges pieces in as few rows as possible without overlaps."""
    lanes: list[list[_Piece]] = []
    for piece in sorted(pieces, key=lambda one: one[2]):
        lane = next((one for one in lanes if one[-1][2][1] <= piece[2][0]), None)
        if lane is None:
            lanes.append(lane := [])
        lane.append(piece)
    return lanes


def _name(kind: str, pid: int, tid: int, **arguments: Any) -> Event:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": arguments}


def _event(piece: _Piece, pid: int, tid: int, zero: float) -> Event:
    name, category, (low, high), known = piece
    # Round both ends, not the duration, so that rounding creates no overlaps.
    begins = _microseconds(low - zero)
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": pid,
        "tid": tid,
        "ts": begins,
        "dur": _microseconds(high - zero) - begins,
        "args": dict(known),
    }


def _microseconds(seconds: float) -> int:
    return round(1e6 * seconds)
