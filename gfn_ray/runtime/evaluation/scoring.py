"""Samples z of held-out queries and scores them, on the actors of training.

Owns the calls and their order; what the scores mean is the evaluation's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gfn_ray.rewards.reward import LOG_P_REF
from gfn_ray.runs.nonfinite_batches import NonFiniteBatches
from gfn_ray.runtime.actors.worker_group import WorkerGroup
from gfn_ray.runtime.evaluation.turns import Turns
from gfn_ray.runtime.supervision.calls import PendingCalls
from gfn_ray.runtime.supervision.failures import DataLost
from gfn_ray.seeds import Seed
from gfn_ray.storage.serialization import Record
from gfn_ray.storage.trajectories import pack_trajectories, unpack_trajectories
from gfn_ray.trajectory import Query, Trajectory

Scored = tuple[list[Trajectory], Record]
"""Trajectories with log R, and the learner's scores of them."""


@dataclass(frozen=True)
class Draw:
    """What one sampling call draws. on_policy: samples per query; 0: on-policy and tempered samples
    as set by `eval`. simulated: whether these are queries that the actors were not made with.
    reads_reference: whether log p_ref is wanted, where log R has it not."""

    queries: list[Query]
    on_policy: int = 0
    simulated: bool = False
    reads_reference: bool = False

    @property
    def more(self) -> list[Query]:
        """The queries that go along with every call."""
        return self.queries if self.simulated else []


class Scoring:
    """Draws and scores under a given adapter; the learner must hold the same weights."""

    def __init__(self, workers: WorkerGroup, bad: NonFiniteBatches) -> None:
        self._workers = workers
        self._bad = bad

    def sampled(self, adapter: Any, draws: Sequence[Draw], seed: Seed) -> dict[int, Scored]:
        """Returns the scored samples of each draw, by its index."""
        workers, calls = self._workers, self._workers.calls()
        results: dict[int, Scored] = {}
        lost: set[int] = set()
        samplers, rewards = len(workers.samplers), len(workers.rewards)
        # Enough for every actor, including the learner, to have one.
        turns = Turns(len(draws), samplers, most=samplers + rewards + 1)

        async def measure(sampler: int, index: int) -> None:
            """Samples and scores one draw, and starts others as actors become free."""
            # Seeded by the draw alone, whichever sampler runs it.
            sample = partial(_sample, adapter, draws[index], [*seed, index])
            what = "sample held-out queries"
            block, _ = await calls.make(workers.samplers[sampler], what, sample)
            turns.sampled(sampler)
            start_what_may_start()
            try:
                results[index] = await self._scored(calls, block, index, draws[index])
            except DataLost:  # with the node that held it; its seed draws the same again
                if index in lost:
                    raise
                lost.add(index)
                turns.lost(index)
            else:
                turns.measured(index)
            start_what_may_start()

        def start_what_may_start() -> None:
            while (turn := turns.next()) is not None:
                calls.start(measure(*turn))

        start_what_may_start()
        calls.run_all()
        return results

    def given(self, trajectories: Sequence[Trajectory], queries: list[Query]) -> Scored:
        """Returns given z of simulated queries, with their scores."""
        calls, draw = self._workers.calls(), Draw(queries, simulated=True)
        results: list[Scored] = []

        async def measure() -> None:
            block = pack_trajectories(trajectories)
            try:
                results.append(await self._scored(calls, block, 0, draw))
            except DataLost:  # once more: this process has z itself
                results.append(await self._scored(calls, block, 0, draw))

        calls.start(measure())
        calls.run_all()
        return results[0]

    async def _scored(self, calls: PendingCalls, block: Any, index: int, draw: Draw) -> Scored:
        workers = self._workers
        scored, info = await calls.make(
            workers.rewards[index % len(workers.rewards)],
            "score samples",
            partial(_score, block, draw.more),
        )
        scores = await calls.make(
            workers.learner,
            "score samples",
            lambda actor: actor.score.remote(scored, draw.more, draw.reads_reference),
        )
        trajectories = unpack_trajectories(await calls.fetch(scored, "hand over samples"))
        self._bad.check_measured(trajectories, info["faults"])
        parts = dict(info["parts"])
        if draw.reads_reference:
            parts[LOG_P_REF] = scores[LOG_P_REF]
        return trajectories, {
            **scores,
            "label_log_probs": info.get("label_log_probs"),
            "parts": parts,
        }


def _sample(adapter: Any, draw: Draw, seed: Seed, actor: Any) -> Any:
    ids = [query.query_id for query in draw.queries]
    sample = actor.sample.options(num_returns=2)
    return sample.remote(adapter, ids, seed, True, draw.on_policy, draw.more)


def _score(block: Any, more: list[Query], actor: Any) -> Any:
    return actor.score.options(num_returns=2).remote(block, more)
