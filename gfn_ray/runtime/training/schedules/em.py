"""EM over the actors: rounds that train q and tune p(y | x, z), plus the classifier baselines.

A round is an E-step, the controller's training, and an M-step: sample q for every training query,
update the label model in one reward actor, and hand its adapter to the others. The contents of
replay were scored by the previous label model, so an M-step empties it: rescoring a few hundred
trajectories would cost more than new ones, which are also closer to q.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from gfn_ray.config import JobConfig
from gfn_ray.errors import UserError
from gfn_ray.evaluation.result import Baseline, Evaluation
from gfn_ray.rewards.label_model import Array
from gfn_ray.runs.batches import shuffled_batches
from gfn_ray.runtime.actors.worker_group import WorkerGroup
from gfn_ray.runtime.training.controller import Controller, StepReport
from gfn_ray.runtime.training.schedules.samples import on_policy_samples
from gfn_ray.runtime.training.schedules.schedule import AfterRound, BaselineMethod
from gfn_ray.seeds import Stream, seed_of
from gfn_ray.serving.tuned_labels import TunedLabels
from gfn_ray.storage.serialization import Record
from gfn_ray.tasks.label_plan import Classifier, LabelPlan
from gfn_ray.tasks.task import Task
from gfn_ray.trajectory import IntArray

HISTORIES_PER_CALL = 32

Examples = list[tuple[IntArray, int]]


class EM:
    """The `Schedule` of a task with labels."""

    learns_apart = True
    round_name = "M-step"

    def __init__(
        self,
        config: JobConfig,
        task: Task,
        plan: LabelPlan,
        queries: Sequence[Any],
        workers: WorkerGroup,
    ) -> None:
        self._config = config
        self._task: Any = task  # also a PredictsLabels, checked by check_data
        self._plan = plan
        self._queries = {query.query_id: query for query in queries}
        self._workers = workers
        self._done = 0
        self._model: Record | None = None

    def baseline_methods(self) -> Iterator[BaselineMethod]:
        """The classifiers without z."""
        for classifier in self._plan.classifiers:
            yield BaselineMethod(classifier.name, partial(self._measure, classifier))

    def _measure(self, classifier: Classifier) -> Baseline:
        """Evaluates a classifier on the held-out queries; one with examples is tuned first, for as
        many updates as EM makes."""
        em = self._plan.em
        self._fit(classifier.examples, classifier.answers, em.rounds * em.m_steps, done=0)
        ids, contexts = list(classifier.contexts), list(classifier.contexts.values())
        log_p = self._predict(contexts, classifier.answers)
        metrics = self._task.label_metrics(
            {query_id: row[None] for query_id, row in zip(ids, log_p, strict=True)}
        )
        self._change("reset_labels", "reset the label model")
        self._workers.rewards[0].saved(lambda actor: actor.reset_labels.remote())
        return Baseline(metrics, [])

    def train(
        self,
        controller: Controller,
        observe: Callable[[StepReport], None],
        after_round: AfterRound,
    ) -> None:
        """Runs all rounds, each an E-step and an M-step."""
        em, steps = self._plan.em, self._config.steps
        for done in range(self._done + 1, em.rounds + 1):
            controller.train(observe, until=steps * done // em.rounds)
            examples, outside = self._examples(self._workers.share_adapter(), done)
            metrics = self._fit(examples, self._plan.answers, em.m_steps, done)
            self._share()
            controller.empty_replay()
            self._done = done
            after_round(done, {**metrics, "named_label_fraction": outside})

    def tuned(self, after: Evaluation) -> TunedLabels:
        """The label model to serve, with the label offset measured in `after`."""
        adapter = self._call("label_adapter", "hand over the label adapter")
        log_probs = {one.query.query_id: one.label_log_probs for one in after.samples}
        offset = self._task.label_offset(log_probs)
        return TunedLabels(adapter, self._task.label_names, offset)

    def state(self) -> Record:
        """Completed rounds, and the label model once there is one."""
        return {"done": self._done, "model": self._model}

    def restore(self, state: Record) -> None:
        """Continues after the rounds recorded by state()."""
        self._done = state["done"]
        if state["model"] is not None:
            self._take_over(state["model"])

    def _take_over(self, state: Record) -> None:
        """Loads this label model into every reward actor and its successors."""
        self._model = state
        for worker in self._workers.rewards:
            self._workers.ask(
                worker, "load the label model", lambda actor: actor.load_labels.remote(state)
            )
            worker.saved(lambda actor: actor.load_labels.remote(state))

    def _examples(self, adapter: Any, done: int) -> tuple[Examples, float]:
        """Returns (x z, label) for samples of q inside the target, and the fraction outside."""
        found = on_policy_samples(
            self._workers,
            adapter,
            list(self._plan.truth),
            self._plan.em.samples,
            lambda start: seed_of(Stream.M_STEP_CALL, self._config.seed, done, start),
            "sample for the M-step",
        )
        inside = [t for t in found if not self._task.is_outside(t.token_ids)]
        if not inside:
            raise UserError(
                f"every one of {len(found)} rationales for the M-step names its label, which is "
                "outside the target; lower task.label_floor, train for more steps or raise "
                "em.samples"
            )
        examples = [
            (
                np.concatenate([self._queries[t.query_id].context_ids, t.token_ids]),
                self._plan.truth[t.query_id],
            )
            for t in inside
        ]
        return examples, 1 - len(inside) / len(found)

    def _fit(
        self, examples: Examples, answers: list[IntArray], steps: int, done: int
    ) -> dict[str, float]:
        """Tunes the first actor's label model; metrics are means over the last pass."""
        if not examples:
            return {}
        batch = min(self._plan.em.batch, len(examples))
        each_pass = -(-len(examples) // batch)
        order = seed_of(Stream.M_STEP_ORDER, self._config.seed, done)
        batches = shuffled_batches(examples, batch, order)
        metrics: list[dict[str, float]] = []
        for _ in range(steps):
            histories, labels = map(list, zip(*next(batches), strict=True))
            found = self._change(
                "fit_labels", "tune its label model", histories, labels, answers, self._plan.em.m_lr
            )
            metrics.append(found)
        last = metrics[-each_pass:]
        return {name: float(np.mean([one[name] for one in last])) for name in metrics[0]}

    def _predict(self, histories: list[IntArray], answers: list[IntArray]) -> Array:
        parts = [
            self._call(
                "label_log_probs",
                "predict labels",
                histories[start : start + HISTORIES_PER_CALL],
                answers,
            )
            for start in range(0, len(histories), HISTORIES_PER_CALL)
        ]
        return np.concatenate(parts)

    def _share(self) -> None:
        """Copies the first actor's label model to every reward actor and its successors."""
        self._take_over(self._call("label_state", "hand over its label model"))

    def _call(self, method: str, what: str, *arguments: Any) -> Any:
        """Calls a read-only method of the first reward actor; returns its value."""
        return self._workers.ask(
            self._workers.rewards[0], what, lambda actor: getattr(actor, method).remote(*arguments)
        )

    def _change(self, method: str, what: str, *arguments: Any) -> Any:
        """Calls a method of the first reward actor that changes its label model."""
        return self._workers.ask(
            self._workers.rewards[0],
            what,
            lambda actor: getattr(actor, method).remote(*arguments),
            changes_state=True,
        )
