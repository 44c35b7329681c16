"""Samplers and learner never wait for each other, and keep to the ratio."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.replay.rate_limiter import RateLimiter
from testing.examples import examples

RATIOS = st.one_of(st.sampled_from([0.1, 0.5, 1.0, 1.1, 1.5, 4.0]), st.floats(0.01, 20))
SIZES = st.integers(1, 40)


@examples(120)
@given(SIZES, RATIOS, SIZES, st.data())
def test_no_deadlock_and_both_bounds_hold_on_any_course(
    min_replay: int, ratio: float, slack: int, data: st.DataObject
) -> None:
    limiter = RateLimiter(min_replay, ratio, slack)
    largest_batch = largest_group = 1
    for _ in range(data.draw(st.integers(1, 40))):
        n = data.draw(st.integers(1, slack))
        group = data.draw(SIZES)
        action = data.draw(st.sampled_from(["promise", "arrive", "lose", "take", "give up"]))
        if action == "promise" and limiter.may_insert(group):
            limiter.promise(group)
            largest_group = max(largest_group, group)
        elif action == "arrive":
            part = data.draw(st.integers(0, limiter.promised))
            limiter.arrived(promised=part, inserted=part)
        elif action == "lose":
            limiter.lost(data.draw(st.integers(0, limiter.promised)))
        elif action in ("take", "give up") and limiter.may_sample(n):
            assert limiter.inserted >= min_replay
            (limiter.took if action == "take" else limiter.gave_up)(n)
            largest_batch = max(largest_batch, n)

        overdraft = max(0.0, largest_batch - ratio * min_replay)
        assert limiter.sampled <= ratio * limiter.inserted + overdraft + 1e-6

        next_batch = max(min_replay, limiter.used / ratio + min(slack / ratio, min_replay))
        ahead = limiter.inserted + limiter.promised
        assert ahead <= max(limiter.used / ratio + slack, next_batch + largest_group) + 1e-6

        if limiter.promised == 0:
            assert limiter.may_sample(n) or limiter.may_insert(group)


@examples(100)
@given(SIZES, RATIOS, SIZES, st.data())
def test_a_loop_of_whole_groups_and_batches_converges_to_the_ratio(
    min_replay: int, ratio: float, slack: int, data: st.DataObject
) -> None:
    batch, group = data.draw(st.integers(1, slack)), data.draw(SIZES)
    limiter = RateLimiter(min_replay, ratio, slack)
    for _ in range(300):
        if limiter.may_sample(batch):
            limiter.took(batch)
        else:
            assert limiter.may_insert(group)
            limiter.promise(group)
            limiter.arrived(promised=group, inserted=group)
    learnable = ratio * limiter.inserted
    assert learnable - batch - ratio * (group + min_replay) <= limiter.sampled
    assert limiter.sampled <= learnable + batch + 1e-6


@given(SIZES, RATIOS, SIZES)
def test_the_first_update_runs_as_soon_as_min_replay_is_reached(
    min_replay: int, ratio: float, slack: int
) -> None:
    limiter = RateLimiter(min_replay, ratio, slack)
    limiter.arrived(promised=0, inserted=min_replay - 1)
    assert not any(limiter.may_sample(n) for n in range(1, slack + 1))
    limiter.arrived(promised=0, inserted=1)
    assert all(limiter.may_sample(n) for n in range(1, slack + 1))


@examples(120)
@given(SIZES, RATIOS, SIZES, st.data())
def test_what_is_promised_for_the_last_batches_is_all_learned_from(
    min_replay: int, ratio: float, slack: int, data: st.DataObject
) -> None:
    """Whoever comes first: no call of a sampler is under way once the last batch is taken."""
    batch, group = data.draw(st.integers(1, slack)), data.draw(SIZES)
    batches = data.draw(st.integers(1, 20))
    limiter = RateLimiter(min_replay, ratio, slack)
    while batches:
        actions = [
            *["promise"] * (limiter.may_insert(group) and not limiter.pays_for(batches, batch)),
            *["arrive"] * (limiter.promised > 0),
            *["take"] * limiter.may_sample(batch),
        ]
        assert actions, "a deadlock"
        action = data.draw(st.sampled_from(actions))
        if action == "promise":
            limiter.promise(group)
        elif action == "arrive":
            limiter.arrived(promised=group, inserted=group)
        else:
            limiter.took(batch)
            batches -= 1
    assert limiter.promised == 0
    assert limiter.pays_for(0, batch)


def test_a_batch_that_was_given_up_is_paid_for_again() -> None:
    limiter = RateLimiter(min_replay=16, samples_per_insert=1.0, slack=16)
    limiter.arrived(promised=0, inserted=16)
    assert limiter.pays_for(1, 16) and not limiter.pays_for(2, 16)
    limiter.gave_up(16)
    assert not limiter.pays_for(1, 16)


def test_samplers_stop_at_the_slack_until_the_learner_moves() -> None:
    limiter = RateLimiter(min_replay=32, samples_per_insert=1.0, slack=48)
    while limiter.may_insert(8):
        limiter.promise(8)
    assert limiter.promised == 48
    limiter.arrived(promised=48, inserted=48)
    assert not limiter.may_insert(8)
    limiter.took(16)
    assert limiter.may_insert(16) and not limiter.may_insert(17)


def test_lost_trajectories_are_asked_for_again() -> None:
    limiter = RateLimiter(min_replay=32, samples_per_insert=1.0, slack=32)
    limiter.promise(32)
    assert not limiter.may_insert(8)
    limiter.lost(8)
    assert limiter.may_insert(8)


def test_a_batch_that_replay_cannot_fill_lets_samplers_go_on() -> None:
    limiter = RateLimiter(min_replay=16, samples_per_insert=1.0, slack=16)
    limiter.arrived(promised=0, inserted=16)
    assert limiter.may_sample(16) and not limiter.may_insert(8)
    limiter.gave_up(16)
    assert not limiter.may_sample(16) and limiter.may_insert(8)
    assert limiter.sampled == 0


def test_a_batch_above_the_slack_is_refused_rather_than_waited_for() -> None:
    limiter = RateLimiter(min_replay=16, samples_per_insert=1.0, slack=16)
    with pytest.raises(ValueError, match="exceeds the slack"):
        limiter.may_sample(17)


def test_what_was_not_promised_cannot_be_settled() -> None:
    limiter = RateLimiter(min_replay=16, samples_per_insert=1.0, slack=16)
    limiter.promise(8)
    with pytest.raises(ValueError, match="8 were promised"):
        limiter.arrived(promised=9, inserted=9)
    assert limiter.inserted == 0


@pytest.mark.parametrize("arguments", [(0, 1.0, 1), (1, 0.0, 1), (1, 1.0, 0)])
def test_refuses_settings_that_admit_nothing(arguments: tuple[int, float, int]) -> None:
    with pytest.raises(ValueError, match="need min_replay >= 1"):
        RateLimiter(*arguments)
