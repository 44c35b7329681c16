"""The staleness gate: no trajectory reaches replay further behind than the limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.runtime.training.staleness import StalenessGate


@given(st.integers(0, 4), st.integers(1, 3), st.lists(st.integers(0, 2), max_size=80))
def test_whatever_the_order_of_events_no_arrival_exceeds_the_limit(limit, every, events):
    """Events: 0 starts a group, 1 delivers the oldest, 2 starts or finishes an update."""
    gate = StalenessGate(limit)
    gate.published(0)
    in_flight: list[int] = []
    updates, updating = 0, False
    for event in events:
        if event == 0 and gate.may_sample():
            gate.sampling(gate.version)
            in_flight.append(gate.version)
        elif event == 1 and in_flight:
            gate.arrived(in_flight.pop(0))
        elif event == 2 and updating:
            updates, updating = updates + 1, False
            if updates % every == 0:
                gate.published(gate.version + 1)
        elif event == 2 and gate.may_update(publishes=(updates + 1) % every == 0):
            updating = True
            if (updates + 1) % every == 0:
                gate.will_publish()
    assert gate.largest_seen <= limit
    assert all(gate.version - version <= limit for version in in_flight)


@given(st.integers(0, 4))
def test_an_idle_loop_may_always_sample_and_update(limit):
    gate = StalenessGate(limit)
    gate.published(0)
    assert gate.may_sample()
    assert gate.may_update(publishes=True)


def test_a_limit_of_zero_is_synchronous():
    gate = StalenessGate(0)
    gate.published(0)
    gate.sampling(0)
    assert not gate.may_update(publishes=True), "a call is still in flight"
    assert gate.may_update(publishes=False)
    gate.arrived(0)
    assert gate.may_update(publishes=True)
    gate.will_publish()
    assert not gate.may_sample(), "a new version is due"
    gate.published(1)
    assert gate.may_sample()


def test_an_update_that_did_not_happen_lets_samplers_go_on():
    gate = StalenessGate(0)
    gate.published(0)
    gate.will_publish()
    gate.publication_cancelled()
    assert gate.may_sample()


def test_versions_never_go_backwards():
    gate = StalenessGate(1)
    gate.published(3)
    with pytest.raises(ValueError, match="after 3"):
        gate.published(3)
