"""Figures of growth: what a step, a run and the replay buffer take as one size grows.

A step is sampling, scoring and one update on one infill query, in this process, with the settings
of bench_infill, but z of a given length: the engine lets none stop before the longest, and hands it
out when it has the wanted length. The number of samplers is that of a job on the tests' tiny model,
through Ray, where the learner asks for a quarter of what is sampled; on a machine with fewer cores
than actors, more of them cannot help. Batches and adds are of a full buffer of that size.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bench_infill import PER_QUERY, Bench
from bench_replay import CALL, QUERIES, trajectories
from bench_replay import PER_QUERY as PER_REPLAY_QUERY
from gfn_ray.config import ReplayConfig
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.replay.buffer import ReplayBuffer
from gfn_ray.support import BoundedSupport
from gfn_ray.trajectory import Query
from measure import Growth, growth, seconds

KS = (4, 8, 16, 32)
Z_LENGTHS = (4, 8, 16, 32)
Y_LENGTHS = (4, 8, 16, 32)
USUAL_Z = 16
SAMPLERS = (1, 2, 4)
SAMPLER_ROUNDS = 2  # each starts as many engines as there are samplers
STORED = (1_000, 10_000, 50_000, 200_000)
EDITS = 2
CALLS = 20  # of adds, and batches, in one measurement
JOB = {
    "steps": 30,
    "eval__every": 0,
    "replay__samples_per_insert": 0.25,
    "runtime__cpus_per_actor": 0.25,
}


class Stepper(Bench):
    """One update on one query, of any size."""

    def __init__(self) -> None:
        super().__init__(rounds=1)
        task = self.config.task.model_copy(update={"max_len": max(Z_LENGTHS)})
        self.config = self.config.model_copy(update={"task": task})
        self._trainers: dict[int, PolicyTrainer] = {}

    @property
    def support(self) -> BoundedSupport:
        """The engine's, in which no z stops by itself."""
        return replace(self._data.support, min_len=max(Z_LENGTHS))

    def step(self, query: Query, count: int, length: int) -> None:
        from gfn_ray.sampling.backend import SampleRequest

        support = replace(self._data.support, max_len=length)
        self.engine.support = support
        drawn = self.engine.sample([SampleRequest(query, self.plans(count))])
        if {len(z) for z in drawn} != {length}:
            raise RuntimeError(f"z of {length} tokens were asked for")
        scored = self.scorer.score([(query, z) for z in drawn])
        if length not in self._trainers:
            self._trainers[length] = PolicyTrainer(self.trainer.model, self.config, support)
        self._trainers[length].step([TrajectoryGroup(query.prompt_ids, scored)])


class GrowthBench:
    """quick: the two smallest sizes of each."""

    def __init__(self, rounds: int, quick: bool) -> None:
        self._rounds = rounds
        self._sizes = slice(2 if quick else None)
        self._stepper = Stepper()

    def figures(self) -> dict[str, Callable[[], Growth]]:
        kinds = {
            "growth, step, K": self.trajectories,
            "growth, step, |z|": self.z_length,
            "growth, step, |y|": self.y_length,
            "growth, trajectories/s, samplers": self.samplers,
            "growth, replay batch, stored": self.batches,
            "growth, replay add, stored": self.adds,
        }
        return {name: partial(kind, name) for name, kind in kinds.items()}

    def trajectories(self, name: str) -> Growth:
        query = self._stepper.queries[0]
        return self._steps(name, {k: (query, k, USUAL_Z) for k in KS[self._sizes]})

    def z_length(self, name: str) -> Growth:
        query = self._stepper.queries[0]
        return self._steps(name, {n: (query, PER_QUERY, n) for n in Z_LENGTHS[self._sizes]})

    def y_length(self, name: str) -> Growth:
        """Of random tokens: none would be likely, and none is cheaper for that."""
        query, rng = self._stepper.queries[0], np.random.default_rng(0)
        content = np.flatnonzero(self._stepper.support.masks.any(axis=0))
        drawn = {n: rng.choice(content, n).astype(np.int32) for n in Y_LENGTHS[self._sizes]}
        queries = {n: replace(query, answer_ids=answer) for n, answer in drawn.items()}
        return self._steps(name, {n: (one, PER_QUERY, USUAL_Z) for n, one in queries.items()})

    def _steps(self, name: str, cases: dict[int, tuple[Query, int, int]]) -> Growth:
        works = {n: seconds(partial(self._stepper.step, *case)) for n, case in cases.items()}
        return growth(name, works, rounds=self._rounds, unit="s")

    def samplers(self, name: str) -> Growth:
        from testing.tiny import tiny_model  # the tests'

        with tempfile.TemporaryDirectory() as home:
            model = tiny_model(Path(home, "tiny"))
            works = {n: partial(rate, model, n) for n in SAMPLERS[self._sizes]}
            rounds = min(self._rounds, SAMPLER_ROUNDS)
            # A process of its own each time: the first is like the others.
            return growth(name, works, rounds=rounds, unit="trajectories/s", warm_up=False)

    def batches(self, name: str) -> Growth:
        """Seconds a batch of 64: eight of each of eight queries."""
        return self._replay(name, 0, lambda buffer, _: buffer.sample(QUERIES, CALL // QUERIES, 0))

    def adds(self, name: str) -> Growth:
        """Seconds for 64, each of which is looked for among those a few edits away."""
        return self._replay(name, EDITS, lambda buffer, new: buffer.add(new))

    def _replay(
        self, name: str, edits: int, call: Callable[[ReplayBuffer, list[Any]], object]
    ) -> Growth:
        def measured(buffer: ReplayBuffer) -> float:
            new = [list(islice(source, CALL)) for _ in range(CALLS)]
            return seconds(lambda: [call(buffer, each) for each in new])() / CALLS

        source = trajectories(seed=1)
        works = {n: partial(measured, full(n, edits)) for n in STORED[self._sizes]}
        return growth(name, works, rounds=self._rounds, unit="s")


def full(stored: int, edits: int) -> ReplayBuffer:
    """A buffer with as many trajectories as it may have."""
    config = ReplayConfig(
        capacity=stored,
        per_query=PER_REPLAY_QUERY,
        max_times_sampled=None,
        edit_distance=edits,
    )
    buffer = ReplayBuffer(config, seed=0, group=CALL // QUERIES)
    buffer.add(list(islice(trajectories(seed=0), stored)))
    return buffer


def rate(model: Path, samplers: int) -> float:
    """Trajectories a second of training that a job with so many samplers draws."""
    from testing.job_runner import run, tiny_number_flags  # the tests'

    with tempfile.TemporaryDirectory() as home:
        flags = tiny_number_flags(model, Path(home), samplers=samplers, **JOB)
        code, _, errors = run(flags, Path(home), "random_number")
        if code:
            raise RuntimeError(
                f"a job with {samplers} samplers ended with {code}: {errors[-2000:]}"
            )
        summary = json.loads(Path(home, "run", "summary.json").read_text())
        return float(summary["trajectories"] / summary["training_seconds"])
