"""A simulated run follows the bounds of a real one, and its time is what its parts add up to."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfn_ray.errors import UserError
from gfn_ray.runtime.planning.measured import Calls, MeasuredDurations
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


def simulated(config, sample, score, learn, processors=None, **others):
    """sample, score, learn: seconds of every call, or Calls."""
    calls = [one if isinstance(one, Calls) else Calls([one]) for one in (sample, score, learn)]
    durations = MeasuredDurations(*calls, **others)
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


def test_the_first_call_of_each_actor_takes_its_own_time():
    even = {"sample": 0.1, "score": 0.1}
    usual = simulated(job(steps=50), learn=1.0, **even)
    slow = simulated(job(steps=50), learn=Calls([4.0], [(0, 1.0)]), **even)
    assert slow.seconds - usual.seconds == pytest.approx(3.0)
    two = job(steps=50, samplers=2)
    usual = simulated(two, sample=1.0, score=0.1, learn=0.1)
    slow = simulated(two, sample=Calls([5.0], [(0, 1.0)]), score=0.1, learn=0.1)
    assert slow.seconds - usual.seconds == pytest.approx(4.0), "both start at once"


def test_the_engine_is_checked_as_often_as_the_record_says_and_the_learner_waits():
    usual = simulated(job(steps=50), sample=0.1, score=0.1, learn=1.0)
    checked = simulated(job(steps=50), sample=0.1, score=0.1, learn=1.0, checks=[2.0, 3.0])
    assert checked.seconds - usual.seconds == pytest.approx(5.0)


def test_samples_of_the_untrained_policy_alone_need_no_check_of_the_engine():
    short = job(steps=4, samplers=4)  # everything is sampled before the first update
    usual = simulated(short, sample=0.1, score=0.1, learn=1.0)
    checked = simulated(short, sample=0.1, score=0.1, learn=1.0, checks=[2.0])
    assert checked == usual


@pytest.mark.parametrize(("every", "evaluations"), [(0, 0), (10, 4), (60, 0)])
def test_training_waits_for_checkpoints_and_evaluations(every, evaluations):
    """50 updates: a checkpoint after every 20; no evaluation after the last update."""
    config = job(steps=50)
    config = config.model_copy(
        update={
            "checkpoint": config.checkpoint.model_copy(update={"every": 20}),
            "eval": config.eval.model_copy(update={"every": every}),
        }
    )
    seconds = {"sample": 0.1, "score": 0.1, "learn": 1.0}
    usual = simulated(config, **seconds)
    pauses = {"a checkpoint": 0.5, "an evaluation": 7.0}
    found = simulated(config, **seconds, pauses=pauses)
    assert found.seconds - usual.seconds == pytest.approx(2 * 0.5 + evaluations * 7.0)
    assert found.trajectories == usual.trajectories


def test_a_run_like_the_recorded_one_has_its_calls_in_order():
    calls = Calls([9.0], [(0, 1.0), (3, 2.0), (5, 3.0)])
    found = [calls.next(first, step) for first, step in [(True, 0), (False, 0), (False, 3)]]
    assert [*found, calls.next(False, 6)] == [9.0, 1.0, 2.0, 3.0]


def test_a_call_takes_what_one_took_of_a_policy_as_old():
    calls = Calls([9.0], [(2, 1.0), (2, 1.5), (8, 2.0)])
    assert {calls.next(False, 4) for _ in range(20)} == {1.0, 1.5}
    assert calls.next(False, 0) in (1.0, 1.5), "the oldest there is"
    assert calls.next(False, 8) == 2.0


@given(st.lists(st.floats(0.01, 5.0), min_size=1, max_size=6), st.integers(1, 5))
def test_a_longer_run_has_every_recorded_call_equally_often(seconds, times):
    calls = Calls([9.0], list(enumerate(seconds)))
    found = [calls.next(False, 1000) for _ in range(times * len(seconds))]
    assert sorted(found) == sorted(times * seconds)


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


def profiled(directory, spans, controller=(), pauses=(), group=GROUP, batch=BATCH):
    written = trace(spans, controller, (0.0, 60.0), pauses)
    (directory / "profile.json").write_text(json.dumps(written))
    (directory / "config.toml").write_text(
        f"[sampler]\nqueries_per_call = 1\ntrajectories_per_query = {group}\n"
        f"[learner]\nqueries_per_step = 1\ntrajectories_per_query = {batch}\n"
    )


def span(what, at, cpu):
    """Waits for a second, works for two, and its answer for half a second."""
    return Span("an actor", what, at, at + 3.5, began=at + 1, ended=at + 3, cpu=cpu)


SPANS = {
    "sampler 0": [span("sample a group", at, cpu) for at, cpu in ((0, 2.0), (4, 2.5), (16, 3.0))],
    "reward actor 0": [
        span("score a group", at, cpu) for at, cpu in ((4, 0.5), (8, 0.6), (20, 0.7))
    ],
    "the learner": [
        span("apply an update", 8, 1.5),
        span("apply an update", 12, 1.1),
        span("score the engine's samples", 24, 1.2),
    ],
}


def test_durations_are_read_from_the_trace_that_a_profiled_run_writes(tmp_path):
    controller = [("sample a group", (3.5, 3.6)), ("apply an update", (11.5, 11.6))]
    pauses = [("a checkpoint", (28.0, 28.5)), ("a checkpoint", (30.0, 30.3))]
    profiled(tmp_path, SPANS, controller, pauses)
    found = MeasuredDurations.read(tmp_path, job())
    assert (found.sample(True, 0), found.score(True, 0), found.learn(True, 0)) == (2.0, 0.5, 1.5)
    # Of what was sampled before the first update, and after the second.
    assert (found.sample(False, 0), found.score(False, 0)) == (2.5, 0.6)
    assert (found.sample(False, 2), found.score(False, 2), found.learn(False, 1)) == (3.0, 0.7, 1.1)
    assert found.sample(False, 1) == 2.5
    assert (found.checks(), found.between()) == ([1.2], 0.5)
    assert (found.checkpoint(), found.evaluation()) == (pytest.approx(0.4), 0.0)


def test_a_call_that_the_end_of_the_trace_cuts_is_no_record_of_its_seconds(tmp_path):
    last = span("apply an update", 57, 9.0).within((0.0, 59.0))
    assert last is not None and last.cpu < 9.0
    profiled(tmp_path, {**SPANS, "the learner": [*SPANS["the learner"], last]})
    found = MeasuredDurations.read(tmp_path, job())
    assert {found.learn(False, 5) for _ in range(9)} == {1.1}


def test_calls_with_twice_the_trajectories_take_twice_as_long(tmp_path):
    profiled(tmp_path, SPANS, group=GROUP // 2, batch=2 * BATCH)
    found = MeasuredDurations.read(tmp_path, job())
    assert (found.sample(True, 0), found.score(True, 0), found.learn(True, 0)) == (4.0, 1.0, 0.75)
    assert found.learn(False, 1) == pytest.approx(1.1 / 2)


def test_a_run_without_a_profile_is_refused_with_what_to_give(tmp_path):
    profiled(tmp_path, {})
    (tmp_path / "profile.json").unlink()
    with pytest.raises(UserError, match=r"profile\.json cannot be read.*--profile\.seconds"):
        MeasuredDurations.read(tmp_path, job())


def test_a_profile_that_lacks_a_stage_is_refused(tmp_path):
    profiled(tmp_path, {"sampler 0": SPANS["sampler 0"]})
    with pytest.raises(UserError, match=r"no call to 'score a group'"):
        MeasuredDurations.read(tmp_path, job())
