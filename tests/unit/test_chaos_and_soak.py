"""The judges of long runs: a schedule that leaves no fault out, and trends that see a leak."""

from itertools import islice

import numpy as np
import pytest

from chaos import Outcome, schedule, table
from faults import faults
from soak import trend

HOURS = np.linspace(0, 0.5, 200)


def noise(seed):
    """Neighbouring samples are alike, as with real memory."""
    return np.cumsum(np.random.default_rng(seed).normal(size=len(HOURS))) % 3.0


@pytest.fixture
def kinds(tmp_path):
    return faults(server=None, checkpoints=tmp_path)


def test_every_fault_befalls_every_actor(kinds):
    actors = {"sampler", "reward", "replay", "learner"}
    for name in ("kill -9", "SIGSTOP", "out of memory", "slow replies"):
        assert {fault.target for fault in kinds if fault.name == name} == actors


def test_a_schedule_leaves_no_fault_out_and_repeats_none_before(kinds):
    drawn = list(islice(schedule(kinds, seed=3), 2 * len(kinds)))
    for half in (drawn[: len(kinds)], drawn[len(kinds) :]):
        assert {(one.name, one.target) for one in half} == {(k.name, k.target) for k in kinds}


def test_a_schedule_follows_from_its_seed(kinds):
    first, again, other = (
        [(one.name, one.target) for one in islice(schedule(kinds, seed), 30)] for seed in (0, 0, 1)
    )
    assert first == again != other


def test_the_table_counts_what_was_not_survived():
    outcomes = [
        Outcome(1, "kill -9", "learner", 10, 4.0, survived=True),
        Outcome(2, "kill -9", "learner", 20, 8.0, survived=False, remark="it ended"),
    ]
    assert "| kill -9 | learner | 2 | 1 | 6.0 | 7.8 |" in table(outcomes)


@pytest.mark.parametrize("seed", range(5))
def test_a_leak_of_a_tenth_an_hour_is_seen(seed):
    found = trend("memory", HOURS, 500 + 50 * HOURS + noise(seed))
    assert found.grows
    assert found.low < 50 < found.high or found.slope == pytest.approx(50, rel=0.2)


@pytest.mark.parametrize("seed", range(5))
def test_what_grew_only_at_first_is_flat(seed):
    start = -100 * np.exp(-HOURS / 0.01)
    assert not trend("memory", HOURS, 500 + start + noise(seed)).grows


def test_what_fluctuates_is_seldom_taken_for_a_leak():
    """Neighbours alike over minutes, and large: a slope as steep as a leak's comes by chance."""
    taken = 0
    for seed in range(40):
        steps = np.random.default_rng(seed).normal(size=len(HOURS))
        series = np.zeros(len(HOURS))
        for at in range(1, len(HOURS)):
            series[at] = 0.8 * series[at - 1] + steps[at]
        found = trend("memory", HOURS, 20 + series)
        assert found.slope > 0.05 * found.mean or not found.grows
        taken += found.grows
    assert taken <= 4, "the interval has 95 %, on both sides"


def test_a_certain_growth_of_a_hundredth_an_hour_is_let_pass():
    found = trend("memory", HOURS, 500 + 5 * HOURS)
    assert found.low > 0 and not found.grows
