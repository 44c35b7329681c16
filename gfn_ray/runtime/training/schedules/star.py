"""STaR over the actors: rounds that sample z, keep the right ones, and tune on them.

Every round tunes anew from the weights and the optimizer of the start, not from the last round's:
otherwise early mistakes that happened to be right stay. With rationalisation, problems that no z
solved are sampled again with their answer in the prompt. One round without it is rejection
fine-tuning on posterior samples. Source: Zelikman et al. 2022, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gfn_ray.config import JobConfig
from gfn_ray.errors import UserError
from gfn_ray.evaluation.result import Evaluation
from gfn_ray.runtime.actors.worker_group import WorkerGroup
from gfn_ray.runtime.training.controller import Controller, StepReport
from gfn_ray.runtime.training.schedules.samples import on_policy_samples
from gfn_ray.runtime.training.schedules.schedule import AfterRound, BaselineMethod
from gfn_ray.seeds import Stream, seed_of
from gfn_ray.storage.serialization import Record
from gfn_ray.tasks.star_plan import StarPlan
from gfn_ray.trajectory import Query, Trajectory

Fit = Callable[[list[Trajectory], int], None]
"""Makes the likelihood updates of a round, by its number, on these z."""


class STaR:
    """The `Schedule` of a task with right answers. decode: tokens of a z to text."""

    learns_apart = True
    round_name = "STaR round"

    def __init__(
        self,
        config: JobConfig,
        plan: StarPlan,
        queries: Sequence[Query],
        workers: WorkerGroup,
        decode: Callable[[Any], str],
        fit: Fit,
    ) -> None:
        self._config = config
        self._plan = plan
        self._queries = {query.query_id: query for query in queries}
        self._workers = workers
        self._decode = decode
        self._fit = fit
        self._done = 0
        self._start: Record | None = None

    def baseline_methods(self) -> Iterator[BaselineMethod]:
        yield from ()

    def train(
        self,
        controller: Controller,
        observe: Callable[[StepReport], None],
        after_round: AfterRound,
    ) -> None:
        """Runs all rounds; there are no updates by the objective to observe."""
        if self._start is None:
            self._start = self._workers.save_learner()
        for done in range(self._done + 1, self._plan.star.rounds + 1):
            controller.stop_if_asked()
            right, metrics = self._right(self._workers.share_adapter(), done)
            self._workers.restore_learner(self._start, controller.version + 1)
            self._fit(right, done)
            controller.publish_now()
            self._done = done
            after_round(done, metrics)

    def tuned(self, after: Evaluation) -> None:
        return None

    def state(self) -> Record:
        """Completed rounds, and the learner at the start once training has begun."""
        return {"done": self._done, "start": self._start}

    def restore(self, state: Record) -> None:
        """Continues after the rounds recorded by state()."""
        self._done, self._start = state["done"], state["start"]

    def _right(self, adapter: Any, done: int) -> tuple[list[Trajectory], dict[str, float]]:
        """The right z of a round, and metrics of it."""
        found = self._sampled(adapter, self._queries, done)
        right = self._only_right(found)
        solved = {one.query_id for one in right}
        metrics = {
            "right_fraction": len(right) / len(found),
            "solved_fraction": len(solved) / len(self._queries),
        }
        hinted = {one: query for one, query in self._plan.hinted.items() if one not in solved}
        if hinted:
            again = self._only_right(self._sampled(adapter, hinted, done, with_hints=True))
            right += again
            solved = {one.query_id for one in again}
            metrics["rationalised_fraction"] = len(solved) / len(self._queries)
        if not right:
            raise UserError(
                f"none of {len(found)} z in STaR's round {done} is right, so there is nothing to "
                "learn from; raise star.samples or sft.steps, or set star.rationalise"
            )
        return right, metrics

    def _only_right(self, found: Sequence[Trajectory]) -> list[Trajectory]:
        return [
            one
            for one in found
            if self._plan.is_right(self._queries[one.query_id], self._decode(one.token_ids))
        ]

    def _sampled(
        self, adapter: Any, queries: Mapping[str, Query], done: int, *, with_hints: bool = False
    ) -> list[Trajectory]:
        """On-policy samples of these queries; hinted ones go along with the calls."""
        return on_policy_samples(
            self._workers,
            adapter,
            list(queries),
            self._plan.star.samples,
            lambda start: seed_of(Stream.STAR_CALL, self._config.seed, done, with_hints, start),
            "sample for STaR",
            queries if with_hints else None,
        )
