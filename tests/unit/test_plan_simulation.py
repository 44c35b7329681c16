"""A simulated run follows the bounds of a real one, and its time is what its parts add up to."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfn_ray.errors import UserError
from gfn_ray.runtime.planning.measured import MeasuredDurations
from gfn_ray.runtime.planning.processors import OwnDevice, SharedCores
from gfn_ray.runtime.planning.simulation import Simulation
from gfn_ray.runtime.profiling.spans import Span
from gfn_ray.runtime.profiling.trace import trace
from gfn_ray.tasks.infill.config import InfillJob

GROUP, BATCH = 64, 16


def job(steps=40, samplers=1, rewards=1, staleness=8, ratio=1.0):
    found = InfillJob(
        steps=steps, samplers=samplers, reward_actors=rewards, max_staleness=staleness
    )
    replay = found.replay.model_copy(update={"samples_per_insert": ratio, "min_replay": 64})
    return found.model_copy(update={"replay": replay})


def simulated(config, sample, score, learn, between=0.0, processors=None):
    durations = MeasuredDurations([sample], [score], [learn], between)
    actors = config.samplers + config.reward_actors + 1
    return Simulation(config, durations, processors or [OwnDevice() for _ in range(actors)]).run()


def test_a_learner_that_is_the_bound_works_all_the_time():
    found = simulated(job(steps=200), sample=0.1, score=0.1, learn=1.0)
    assert found.seconds == pytest.approx(0.2 + 200 * 1.0, rel=0.01)
    assert found.busy["learner"] > 0.99


def test_samplers_that_are_the_bound_set_the_pace_and_more_of_them_help():
    one = simulated(job(steps=200), sample=8.0, score=0.1, learn=0.1)
    assert one.seconds == pytest.approx(200 * BATCH / GROUP * 8.0, rel=0.05)
    two = simulated(job(steps=200, samplers=2), sample=8.0, score=0.1, learn=0.1)
    assert two.seconds == pytest.approx(one.seconds / 2, rel=0.1)
    assert one.busy["sampler"] > 0.95


def test_every_update_is_paid_for_and_nothing_more_is_sampled():
    found = simulated(job(steps=100), sample=1.0, score=0.5, learn=0.3)
    assert found.updates == 100
    assert found.trajectories % GROUP == 0
    assert 100 * BATCH <= found.trajectories < 100 * BATCH + 2 * GROUP


@given(
    st.tuples(*[st.floats(0.01, 5.0)] * 3),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(0, 6),
)
@settings(max_examples=60)
def test_no_trajectory_is_staler_than_allowed_and_the_run_ends(seconds, samplers, rewards, bound):
    found = simulated(job(30, samplers, rewards, bound), *seconds)
    assert found.updates == 30
    assert found.staleness <= bound
    assert all(0 <= share <= 1 + 1e-9 for share in found.busy.values())


def test_actors_on_shared_cores_take_as_long_as_their_work_together():
    cores = SharedCores(2)
    config = job(steps=100, samplers=2)
    found = simulated(config, sample=7.0, score=1.0, learn=1.0, processors=[cores] * 4)
    work = found.trajectories / GROUP * (7.0 + 1.0) + 100 * 1.0
    assert work / 2 <= found.seconds <= work / 2 * 1.2


@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=8), st.integers(1, 4))
def test_calls_that_begin_together_end_in_the_order_of_their_work(works, cores):
    """And the last when all work is done, if the cores are never idle before."""
    from gfn_ray.runtime.planning.simulation import _Clock

    clock, shared, ended = _Clock(), SharedCores(cores), []
    for index, work in enumerate(works):
        shared.begin(clock, work, lambda i=index: ended.append((clock.now, i)))
    while clock.advance():
        pass
    assert [works[i] for _, i in ended] == sorted(works)
    if cores == 1:
        assert clock.now == pytest.approx(sum(works))
    assert clock.now >= max(works) - 1e-9


def test_a_thousand_samplers_are_simulated_too():
    config = job(steps=50, samplers=1000, rewards=250)
    found = simulated(config, sample=60.0, score=1.0, learn=0.5)
    assert found.updates == 50


def test_durations_are_read_from_the_trace_that_a_profiled_run_writes(tmp_path):
    def span(what, at, cpu):
        return Span("an actor", what, at, at + 3.5, began=at + 1, ended=at + 3, cpu=cpu)

    spans = {
        "sampler 0": [span("sample a group", 0.0, 2.0)],
        "reward actor 0": [span("score a group", 4.0, 0.5)],
        "the learner": [span("apply an update", 8.0, 1.5)],
    }
    controller = [("sample a group", (3.5, 3.6)), ("apply an update", (11.5, 11.6))]
    written = trace(spans, controller, (0.0, 12.0))
    (tmp_path / "profile.json").write_text(json.dumps(written))
    found = MeasuredDurations.read(tmp_path)
    assert (found.sample(), found.score(), found.learn(), found.between()) == (2.0, 0.5, 1.5, 0.5)


def test_a_run_without_a_profile_is_refused_with_what_to_give(tmp_path):
    with pytest.raises(UserError, match=r"profile\.json cannot be read.*--profile\.seconds"):
        MeasuredDurations.read(tmp_path)
