"""What may start next, driven by simulated actors that finish in any order: a run ends within its
bounds, with all its updates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.config import CheckpointConfig, LearnerConfig, ReplayConfig, SamplerConfig
from gfn_ray.errors import RunFailed
from gfn_ray.runtime.training.pacing import EMPTY_DRAWS_LIMIT, Pacing
from gfn_ray.tasks.infill.config import InfillJob
from testing.examples import examples

COURSES = dict(
    samplers=st.integers(1, 3),
    max_staleness=st.integers(0, 5),
    publish_every=st.integers(1, 4),
    checkpoint_every=st.integers(1, 6),
    per_call=st.integers(1, 4),
    ratio=st.sampled_from([0.5, 1.0, 1.5, 4.0]),
    pause=st.integers(1, 12),
)


def settings(
    samplers=1,
    max_staleness=8,
    publish_every=1,
    checkpoint_every=25,
    per_call=1,
    ratio=1.5,
    steps=12,
):
    return InfillJob(
        steps=steps,
        samplers=samplers,
        max_staleness=max_staleness,
        sampler=SamplerConfig(queries_per_call=per_call, trajectories_per_query=4),
        learner=LearnerConfig(
            queries_per_step=1, trajectories_per_query=4, publish_every=publish_every
        ),
        checkpoint=CheckpointConfig(every=checkpoint_every),
        replay=ReplayConfig(min_replay=4, samples_per_insert=ratio),
    )


class Simulation:
    """Actors whose calls end when they are told to, in any order, and some of them in vain.

    update: the stage of the one under way, if any.
    """

    def __init__(self, config: InfillJob) -> None:
        self.config = config
        self.pacing = Pacing(config)
        self.pacing.will_publish()
        self.pacing.published(0)
        self.calls: list[int] = []  # versions of sampling calls under way
        self.update: str | None = None
        self.publishes = False
        self.lags: list[int] = []

    def start(self) -> None:
        if self.pacing.may_update():
            self.publishes = self.pacing.updating()
            self.update = "draws"
        while len(self.calls) < self.config.samplers and self.pacing.may_sample():
            self.calls.append(self.pacing.sampling())

    def finish(self, which: int, in_vain: bool) -> None:
        """One of what is under way ends, or comes one stage further."""
        which %= len(self.calls) + (self.update is not None)
        if which < len(self.calls):
            version = self.calls.pop(which)
            if in_vain:
                self.pacing.gave_up(version)
                return
            self.lags.append(self.pacing.version - version)
            self.pacing.stored(version, 4 * self.config.sampler.queries_per_call)
        elif self.update == "draws":
            self.pacing.drew(4)
            self.update = "learns"
        elif in_vain:
            self.pacing.cancelled()
            self.update = None
        else:
            self.pacing.updated()
            if self.publishes:
                self.pacing.published(self.pacing.version + 1)
            self.pacing.finished()
            self.update = None

    def run(self, until: int | None, choices: st.DataObject) -> None:
        self.pacing.go_on(until)
        while not self.pacing.pauses:
            self.start()
            assert self.calls or self.update, "nothing is under way and nothing may start"
            in_vain = choices.draw(st.integers(0, 9)) == 9
            self.finish(choices.draw(st.integers(0, 7)), in_vain)
        while self.calls:
            self.finish(0, in_vain=False)


@examples(200)
@given(st.fixed_dictionaries(COURSES), st.data())
def test_a_run_ends_with_all_updates_and_no_trajectory_too_far_behind(course, data):
    pause = course.pop("pause")
    config = settings(**course)
    simulation = Simulation(config)
    simulation.run(pause, data)
    assert simulation.pacing.step == pause
    simulation.run(None, data)
    assert simulation.pacing.step == config.steps
    assert max(simulation.lags) <= config.max_staleness
    assert simulation.pacing.largest_staleness == max(simulation.lags)


@given(st.data())
def test_one_that_ends_early_makes_no_further_update(data):
    simulation = Simulation(settings())
    simulation.run(5, data)
    simulation.pacing.end_here()
    simulation.pacing.go_on(None)
    assert simulation.pacing.pauses and not simulation.pacing.may_update()


def test_draws_that_find_nothing_wait_for_an_add_and_are_not_for_ever():
    pacing = Simulation(settings()).pacing
    for _ in range(EMPTY_DRAWS_LIMIT):
        pacing.stored_unasked(8)
        assert pacing.may_update()
        pacing.updating()
        pacing.found_nothing(stored=8)
        assert not pacing.may_update(), "nothing new has come"
    pacing.stored_unasked(8)
    pacing.updating()
    with pytest.raises(RunFailed, match=r"31 draws from replay.*\(8 are stored\); raise"):
        pacing.found_nothing(stored=8)


def test_an_update_that_is_cancelled_leaves_all_as_it_was():
    pacing = Simulation(settings(max_staleness=0)).pacing
    pacing.stored_unasked(8)
    assert pacing.may_update() and pacing.updating() and pacing.publishing
    pacing.cancelled()
    assert not pacing.publishing and pacing.step == 0
    assert pacing.may_update()


def test_what_a_checkpoint_keeps_goes_on_where_it_was():
    pacing = Simulation(settings()).pacing
    pacing.stored_unasked(8)
    pacing.updating()
    pacing.drew(4)
    pacing.updated()
    again = Pacing(settings())
    again.restore(pacing.state())
    assert again.state() == pacing.state()
    assert again.step == 1
