"""Evaluation gives every batch to one sampler, and again if it is lost, and never lets more pile up
than it may."""

from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.runtime.evaluation.turns import Turns


@given(
    batches=st.integers(0, 12),
    samplers=st.integers(1, 4),
    most=st.integers(1, 6),
    choices=st.lists(st.integers(0, 99), min_size=60, max_size=60),
)
def test_every_batch_is_sampled_once_and_few_are_under_way(batches, samplers, most, choices):
    turns = Turns(batches, samplers, most)
    busy: dict[int, int] = {}  # batch by sampler
    to_measure: list[int] = []
    order, done = [], 0
    for choice in choices:
        while (turn := turns.next()) is not None:
            sampler, batch = turn
            assert sampler not in busy
            busy[sampler] = batch
            order.append(batch)
        under_way = len(busy) + len(to_measure)
        assert under_way <= most
        left = len(order) < batches
        assert not left or under_way == most or len(busy) == samplers, "a sampler rests for nothing"
        events = [*busy, *(samplers + i for i in range(len(to_measure)))]
        if not events:
            break
        event = events[choice % len(events)]
        if event < samplers:
            to_measure.append(busy.pop(event))
            turns.sampled(event)
        else:
            turns.measured(to_measure.pop(event - samplers))
            done += 1
    assert order == list(range(batches))
    assert done == batches


def test_a_lost_batch_is_the_next_to_be_sampled():
    turns = Turns(batches=3, samplers=1, most=2)
    assert turns.next() == (0, 0)
    turns.sampled(0)
    turns.lost(0)
    assert turns.next() == (0, 0)
    turns.sampled(0)
    assert turns.next() == (0, 1)
