"""Actor calls as spans of time on this machine's clock: sent, begun, ended, taken.

Merges the controller's half of a call with the actor's half, even if the clock of the actor's
machine differs. Pure; independent of Ray and of how spans are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

Interval = tuple[float, float]
"""Start and end, in seconds of a monotonic clock."""


@dataclass(frozen=True)
class Work:
    """An actor's half of a call, by its own clock. call: Ray's id of it. cpu: CPU seconds of the
    actor's process during the call, over all threads."""

    call: str
    method: str
    began: float
    ended: float
    cpu: float


@dataclass
class Sent:
    """The controller's half. taken: None until there is an answer. lost: there will be none."""

    call: str
    actor: str
    what: str
    sent: float
    taken: float | None = None
    lost: bool = False


@dataclass(frozen=True)
class Span:
    """One call, sent <= began <= ended <= taken; began and ended are None if the actor's half is
    unknown."""

    actor: str
    what: str
    sent: float
    taken: float
    began: float | None = None
    ended: float | None = None
    cpu: float = 0.0

    @property
    def work(self) -> Interval | None:
        return None if self.began is None or self.ended is None else (self.began, self.ended)

    def within(self, window: Interval) -> Span | None:
        """The part inside a window, with CPU seconds in proportion; None if there is none."""
        low, high = window
        if self.taken <= low or self.sent >= high:
            return None
        cut = replace(self, sent=max(self.sent, low), taken=min(self.taken, high))
        work = None if self.work is None else clip(self.work, window)
        if self.work is None or work is None:
            return replace(cut, began=None, ended=None, cpu=0.0)
        whole = self.work[1] - self.work[0]
        share = (work[1] - work[0]) / whole if whole else 1.0
        return replace(cut, began=work[0], ended=work[1], cpu=self.cpu * share)


def clip(interval: Interval, window: Interval) -> Interval | None:
    """The part of the interval inside the window; None if there is none."""
    low, high = max(interval[0], window[0]), min(interval[1], window[1])
    return (low, high) if low <= high else None


def merge(
    actor: str, sent: Sequence[Sent], works: Sequence[Work], until: float, same_clock: bool
) -> list[Span]:
    """Returns one actor's calls as spans on the controller's clock, including those in flight.

    works: in the actor's own order; calls that the controller did not send, as after a restart,
    count too. until: ends the calls without an answer. same_clock: if False, the actor's times are
    shifted by clock_offset.
    """
    by_call = {one.call: one for one in sent}
    pairs = [(by_call[work.call], work) for work in works if work.call in by_call]
    offset = 0.0 if same_clock else clock_offset(pairs)
    spans = []
    if offset is not None:
        spans = [_span(actor, by_call.get(work.call), work, offset, until) for work in works]
    known = {work.call for work in works} if offset is not None else set()
    for one in sent:
        if one.call not in known:
            taken = max(one.sent, until if one.taken is None else one.taken)
            what = f"{one.what} (lost)" if one.lost else one.what
            spans.append(Span(actor, what, one.sent, taken))
    return sorted(spans, key=lambda span: (span.sent, span.taken))


def clock_offset(pairs: Iterable[tuple[Sent, Work]]) -> float | None:
    """What to add to an actor's clock to get the controller's; None if there are no calls.

    No call began before it was sent or ended after its answer was taken. The offsets consistent
    with every call form an interval; this is its middle. Its error is at most half the shortest
    round-trip time in transit.
    """
    answered = [(one, work) for one, work in pairs if one.taken is not None and not one.lost]
    if not answered:
        return None
    lowest = max(one.sent - work.began for one, work in answered)
    highest = min(one.taken - work.ended for one, work in answered if one.taken is not None)
    return (lowest + highest) / 2


def _span(actor: str, sent: Sent | None, work: Work, offset: float, until: float) -> Span:
    began, ended = work.began + offset, work.ended + offset
    if sent is None:
        return Span(actor, work.method, began, ended, began, ended, work.cpu)
    taken = max(sent.sent, max(until, ended) if sent.taken is None else sent.taken)
    # Times are out of order only if another machine's clock drifts.
    began = min(max(began, sent.sent), taken)
    ended = min(max(ended, began), taken)
    return Span(actor, sent.what, sent.sent, taken, began, ended, work.cpu)


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The union of the intervals, sorted and without overlaps."""
    found: list[Interval] = []
    for low, high in sorted(intervals):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found


def length(intervals: Iterable[Interval]) -> float:
    """Total seconds, with overlaps counted once."""
    return sum(high - low for low, high in union(intervals))


def gaps(intervals: Iterable[Interval], window: Interval) -> list[Interval]:
    """The parts of the window that no interval covers."""
    found, at = [], window[0]
    for low, high in union(intervals):
        if low > at:
            found.append((at, min(low, window[1])))
        at = max(at, high)
        if at >= window[1]:
            return found
    return [*found, (at, window[1])]
