"""Where the time went: halves of calls become spans, spans a trace and a table."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.runtime.profiling.spans import Sent, Work, clock_offset, gaps, length, merge, union
from gfn_ray.runtime.profiling.time_table import actor_rows, controller_row, table
from gfn_ray.runtime.profiling.trace import trace

KINDS = ("sample a group", "publish its weights", "score samples")
seconds = st.floats(0, 5)


@st.composite
def served_calls(draw):
    """Calls of an actor that serves one after another, by one clock: what the controller knows of
    them, what the actor does, and when the controller looks."""
    sent, works, free, at = [], [], 0.0, 0.0
    for number in range(draw(st.integers(0, 12))):
        at += draw(seconds)
        began = max(at, free) + draw(seconds)
        free = ended = began + draw(seconds)
        taken = ended + draw(seconds)
        what = draw(st.sampled_from(KINDS))
        sent.append(Sent(str(number), "sampler 0", what, at, taken))
        works.append(Work(str(number), "sample", began, ended, cpu=ended - began))
    return sent, works, max((one.taken for one in sent), default=0.0)


@st.composite
def windows(draw):
    low = draw(st.floats(0, 40))
    return low, low + draw(st.floats(0.01, 40))


def shifted(works, by):
    return [Work(w.call, w.method, w.began - by, w.ended - by, w.cpu) for w in works]


def rows_of(events):
    """Complete events by row, as (begin, end)."""
    rows = {}
    for event in events:
        if event["ph"] == "X":
            span = (event["ts"], event["ts"] + event["dur"])
            rows.setdefault((event["pid"], event["tid"]), []).append(span)
    return rows


@given(served_calls(), windows())
def test_work_transit_and_idleness_add_up_to_the_window(calls, window):
    sent, works, until = calls
    spans = merge("sampler 0", sent, works, until, same_clock=True)
    row = actor_rows("sampler 0", spans, window)[0]
    assert row.work + row.transit + row.idle == pytest.approx(window[1] - window[0])
    assert min(row.work, row.transit, row.idle) >= 0
    assert row.cpu == pytest.approx(row.work), "one thread that never sleeps"


@given(served_calls(), windows())
def test_the_kinds_of_an_actors_calls_add_up_to_the_actor(calls, window):
    sent, works, until = calls
    first, *kinds = actor_rows(
        "sampler 0", merge("sampler 0", sent, works, until, same_clock=True), window
    )
    if kinds:
        assert sum(row.work for row in kinds) == pytest.approx(first.work)
        assert sum(row.calls for row in kinds) == first.calls
        assert sum(row.cpu for row in kinds) == pytest.approx(first.cpu)


@given(served_calls(), windows())
def test_no_two_events_of_a_row_overlap_and_all_lie_in_the_window(calls, window):
    sent, works, until = calls
    spans = merge("sampler 0", sent, works, until, same_clock=True)
    inside = [piece for span in spans if (piece := span.within(window)) is not None]
    pieces = [("looks after the actors", gap) for gap in gaps([], window)]
    pauses = [("a checkpoint", gap) for gap in gaps([], window)]
    written = json.loads(json.dumps(trace({"sampler 0": inside}, pieces, window, pauses)))
    events = written["traceEvents"]
    assert sum(event.get("cat") == "pause" for event in events) == len(pauses)
    for row in map(sorted, rows_of(events).values()):
        assert all(end <= begin for (_, end), (begin, _) in pairwise(row))
        assert row[0][0] >= 0
        assert max(end for _, end in row) <= 1e6 * (window[1] - window[0]) + 1
    begins = [event["ts"] for event in events if event["ph"] == "X"]
    assert begins == sorted(begins)


@given(served_calls(), st.floats(-1e6, 1e6))
def test_the_clock_of_another_machine_is_found_to_half_a_round_trip(calls, by):
    sent, works, until = calls
    there = shifted(works, by)
    offset = clock_offset(list(zip(sent, there, strict=True)))
    if not sent:
        assert offset is None
        return
    trips = [(o.taken - o.sent) - (w.ended - w.began) for o, w in zip(sent, works, strict=True)]
    assert abs(offset - by) <= min(trips) / 2 + 1e-6
    for span in merge("sampler 0", sent, there, until, same_clock=False):
        assert span.sent <= span.began <= span.ended <= span.taken


def test_one_clock_is_taken_at_its_word():
    sent = [Sent("a", "sampler 0", "sample a group", sent=1.0, taken=9.0)]
    (span,) = merge("sampler 0", sent, [Work("a", "sample", 2.0, 4.0, 2.0)], 9.0, same_clock=True)
    assert (span.sent, span.began, span.ended, span.taken) == (1.0, 2.0, 4.0, 9.0)


def test_a_call_under_way_lasts_until_the_controller_looks():
    sent = [Sent("a", "sampler 0", "sample a group", sent=1.0)]
    (queued,) = merge("sampler 0", sent, [], until=3.0, same_clock=True)
    assert (queued.sent, queued.taken, queued.work) == (1.0, 3.0, None)
    works = [Work("a", "sample", 2.0, 7.0, 5.0)]  # it ended while its actor was asked for its log
    (span,) = merge("sampler 0", sent, works, until=3.0, same_clock=True)
    assert span.within((0.0, 3.0)).work == (2.0, 3.0)
    assert span.within((0.0, 3.0)).cpu == pytest.approx(1.0)


def test_what_a_dead_actor_did_is_shown_as_lost_and_what_its_successor_did_as_work():
    sent = [
        Sent("a", "the learner", "apply an update", sent=1.0, taken=2.0, lost=True),
        Sent("b", "the learner", "apply an update", sent=6.0, taken=8.0),
    ]
    works = [Work("r", "restore", 4.0, 5.0, 1.0), Work("b", "step", 6.5, 7.5, 1.0)]
    spans = merge("the learner", sent, works, until=8.0, same_clock=True)
    assert [(span.what, span.work) for span in spans] == [
        ("apply an update (lost)", None),
        ("restore", (4.0, 5.0)),
        ("apply an update", (6.5, 7.5)),
    ]


def test_calls_that_wait_at_the_same_time_wait_in_rows_of_their_own():
    sent = [Sent(str(i), "reward actor 0", "score samples", 0.0, 10.0) for i in range(3)]
    works = [Work(str(i), "score", 2.0 + i, 3.0 + i, 1.0) for i in range(3)]
    spans = merge("reward actor 0", sent, works, 10.0, same_clock=True)
    written = trace({"reward actor 0": spans}, [], (0.0, 10.0))
    rows = {
        (event["pid"], event["args"]["name"])
        for event in written["traceEvents"]
        if event["name"] == "thread_name"
    }
    assert rows == {(1, "works"), (2, "works"), (2, "waits"), (2, "waits 2"), (2, "waits 3")}


@given(st.lists(st.tuples(seconds, seconds).map(sorted).map(tuple), max_size=8), windows())
def test_a_window_is_what_is_covered_and_the_gaps(intervals, window):
    covered = [
        (max(low, window[0]), min(high, window[1]))
        for low, high in union(intervals)
        if high >= window[0] and low <= window[1]
    ]
    whole = window[1] - window[0]
    assert length(covered) + length(gaps(intervals, window)) == pytest.approx(whole)


def test_the_table_names_the_window_the_actors_and_their_calls():
    sent = [
        Sent("a", "the learner", "apply an update", 0.0, 4.0),
        Sent("b", "the learner", "publish its weights", 5.0, 7.0),
    ]
    works = [Work("a", "step", 1.0, 4.0, 6.0), Work("b", "publish", 5.0, 6.0, 0.5)]
    spans = merge("the learner", sent, works, 10.0, same_clock=True)
    rows = [
        *actor_rows("the learner", spans, (0.0, 10.0)),
        controller_row([(4.0, 5.0)], 0.25, 2, (0.0, 10.0)),
    ]
    lines = [line.split("  ") for line in table(rows, (0.0, 10.0)).splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells == [
        ["where 10.0 s of training went"],
        ["work %", "transit %", "idle %", "CPU s", "calls", "median ms", "p95 ms"],
        ["the learner", "40.0", "20.0", "40.0", "6.5", "2", "2,000.0", "2,900.0"],
        ["apply an update", "30.0", "6.0", "1", "3,000.0", "3,000.0"],
        ["publish its weights", "10.0", "0.5", "1", "1,000.0", "1,000.0"],
        ["controller", "10.0", "90.0", "0.2", "2", "1,000.0", "1,000.0"],
    ]
