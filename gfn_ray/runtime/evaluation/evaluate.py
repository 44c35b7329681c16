"""Evaluates the policy on held-out queries, before, during and after training.

Uses the same actors as training. The evaluations before and after training share their seeds;
those during training use others, so that a run that stops at a good value is not reported by that
same value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gfn_ray.config import JobConfig
from gfn_ray.decoding.simulation import SimulatedQuery
from gfn_ray.evaluation.calibration import (
    CALIBRATION_METRICS,
    SimulatedScores,
    calibration_metrics,
)
from gfn_ray.evaluation.exact import ExactComparison
from gfn_ray.evaluation.mismatch import mismatch_kl
from gfn_ray.evaluation.posterior import posterior_metrics, query_diagnostics
from gfn_ray.evaluation.result import (
    Array,
    Enumeration,
    Evaluation,
    QuerySamples,
    mean_metrics,
)
from gfn_ray.evaluation.weights import WeightDiagnostics, weight_diagnostics, weight_metrics
from gfn_ray.runs.nonfinite_batches import NonFiniteBatches
from gfn_ray.runtime.actors.worker_group import WorkerGroup
from gfn_ray.runtime.evaluation.calibrate import simulated_scores
from gfn_ray.runtime.evaluation.scoring import Draw, Scoring
from gfn_ray.seeds import Seed, Stream, seed_of
from gfn_ray.storage.serialization import Record
from gfn_ray.storage.trajectories import pack_trajectories
from gfn_ray.tasks.demonstrations import demonstration_trajectories, demonstration_trajectory
from gfn_ray.tasks.task import Task, TaskData
from gfn_ray.trajectory import Query, Trajectory

REFERENCE_METRICS = {"log_pf_reference", "log_pf_reference_per_token"}
"""These need an extra forward pass, so a task opts in by listing one of them."""


class Evaluator:
    """Evaluates the weights that the learner holds and has published."""

    def __init__(
        self,
        config: JobConfig,
        task: Task,
        data: TaskData,
        workers: WorkerGroup,
        bad: NonFiniteBatches,
        decode: Callable[[Any], str],
        simulated: Sequence[SimulatedQuery] = (),
    ) -> None:
        self._config = config
        self._task = task
        self._data = data
        self._workers = workers
        self._scoring = Scoring(workers, bad)
        self._decode = decode
        self._simulated = simulated

    def final(self) -> Evaluation:
        """Evaluates before or after training, with the seeds that both share."""
        adapter = self._workers.share_adapter()
        seed = seed_of(Stream.EVALUATION, self._config.seed)
        simulated = self._calibrate(adapter, seed_of(Stream.SIMULATED_SAMPLES, self._config.seed))
        return self._evaluate(adapter, seed, self._more_ratios(adapter), simulated)

    def during(self, step: int) -> Evaluation:
        """Evaluates after an update."""
        adapter = self._workers.share_adapter()
        seed = seed_of(Stream.EVALUATION_DURING, self._config.seed, step)
        simulated: list[SimulatedScores] = []
        if self._config.stop.metric in CALIBRATION_METRICS:
            own = seed_of(Stream.SIMULATED_DURING, self._config.seed, step)
            simulated = self._calibrate(adapter, own)
        return self._evaluate(adapter, seed, {}, simulated)

    def _calibrate(self, adapter: Any, seed: Seed) -> list[SimulatedScores]:
        """The policy's scores on simulated queries, if there are any."""
        support = self._data.support
        return simulated_scores(
            self._config, support, self._scoring, self._simulated, adapter, seed
        )

    def _evaluate(
        self,
        adapter: Any,
        seed: Seed,
        more: dict[str, list[float]],
        simulated: list[SimulatedScores],
    ) -> Evaluation:
        """more: from _more_ratios, if importance weights are to be diagnosed. simulated: the
        policy's scores on simulated queries, if it is to be calibrated."""
        batches = self._batches(self._data.held_out)
        draws = [Draw(batch, reads_reference=self._data.reads_reference) for batch in batches]
        results = self._scoring.sampled(adapter, draws, seed)
        samples, engine, learner = [], [], []
        counted: list[QuerySamples] = []
        weights: dict[str, WeightDiagnostics] = {}
        for index, batch in enumerate(batches):
            trajectories, scores = results[index]
            ratio = self._log_ratio(trajectories, scores)
            labels = scores["label_log_probs"]
            each = self._samples_of_a_query
            for i, query in enumerate(batch):
                start = i * each
                on_policy = slice(start, start + self._config.eval.samples)
                tempered = slice(on_policy.stop, start + each)
                engine += [t.sampler_log_content for t in trajectories[on_policy]]
                learner += scores["log_pf"][on_policy].tolist()
                texts = [self._decode(t.token_ids) for t in trajectories[on_policy]]
                diagnostics = query_diagnostics(ratio[on_policy], ratio[tempered])
                if query.query_id in more:
                    w = np.concatenate([ratio[on_policy], more[query.query_id]])
                    weights[query.query_id] = weight_diagnostics(w)
                samples.append(
                    QuerySamples(
                        query,
                        trajectories[on_policy],
                        texts,
                        scores["log_q"][on_policy],
                        diagnostics,
                        None if labels is None else labels[on_policy],
                        parts={name: part[on_policy] for name, part in scores["parts"].items()},
                    )
                )
                if query.query_id not in self._data.calibration:
                    counted.append(samples[-1])
        exact = [self._exact(one) for one in self._data.enumerations]
        per_query = self._per_query(counted)
        metrics = {
            **posterior_metrics([one.diagnostics for one in counted]),
            **weight_metrics(list(weights.values())),
            **calibration_metrics(simulated, self._config.reward.temperature_end),
            **mean_metrics(per_query.values()),
            **self._task.sample_metrics(samples),
            **mean_metrics([one.metrics() for one in exact]),
        }
        ordered = {name: metrics[name] for name in self._task.metrics if name in metrics}
        mismatch = mismatch_kl(np.array(engine), np.array(learner))
        return Evaluation(ordered, samples, exact, mismatch, per_query, weights, simulated)

    def _more_ratios(self, adapter: Any) -> dict[str, list[float]]:
        """w = log R/T - log q of further samples of the diagnostic queries, by id. Together with
        the regular samples there are eval.diagnostic_samples per query."""
        config, calibration = self._config, self._data.calibration
        judged = [query for query in self._data.held_out if query.query_id not in calibration]
        judged = judged[: config.eval.diagnostic_queries]
        wanted = max(0, config.eval.diagnostic_samples - config.eval.samples)
        # Per call no more samples than any evaluation draws, to bound its memory and time.
        most = self._samples_of_a_query
        counts = [min(most, wanted - start) for start in range(0, wanted, most)]
        draws = [Draw(batch, count) for count in counts for batch in self._batches(judged)]
        seed = seed_of(Stream.DIAGNOSTIC, config.seed)
        results = self._scoring.sampled(adapter, draws, seed)
        ratios: dict[str, list[float]] = {query.query_id: [] for query in judged}
        for index in range(len(draws)):
            trajectories, scores = results[index]
            for one, ratio in zip(trajectories, self._log_ratio(trajectories, scores), strict=True):
                ratios[one.query_id].append(ratio)
        return ratios

    def _batches(self, queries: list[Query]) -> list[list[Query]]:
        """The queries of each sampling call."""
        size = self._config.sampler.queries_per_call
        return [queries[start : start + size] for start in range(0, len(queries), size)]

    @property
    def _samples_of_a_query(self) -> int:
        return self._config.eval.samples + self._config.eval.tempered_samples

    def _log_ratio(self, trajectories: list[Trajectory], scores: Record) -> Array:
        """log R/T - log q of whole trajectories [S]; R includes the objective's terms."""
        log_reward = np.array([t.final_log_reward for t in trajectories])
        tempered = log_reward / self._config.reward.temperature_end
        ratio: Array = tempered + scores["log_reference"] - scores["log_q"]
        return ratio

    def _per_query(self, samples: list[QuerySamples]) -> dict[str, dict[str, float]]:
        """Metrics of each held-out query, by id: the task's and those common to all tasks."""
        demonstrations = self._reference_metrics()
        found = {}
        for one, own in zip(samples, self._task.query_metrics(samples), strict=True):
            query_id = one.query.query_id
            reward = float(np.mean([t.final_log_reward for t in one.trajectories]))
            values = {"log_reward_mean": reward, **demonstrations.get(query_id, {}), **own}
            found[query_id] = {name: values[name] for name in self._task.metrics if name in values}
        return found

    def _reference_metrics(self) -> dict[str, dict[str, float]]:
        """log q of the demonstrations of held-out queries, if the task asks for it.

        By query id, the mean over a query's demonstrations inside the support. The per-token
        metric divides by the tokens of z plus one for the stop.
        """
        if not REFERENCE_METRICS & self._task.metrics.keys():
            return {}
        demonstrations = demonstration_trajectories(self._data.held_out, self._data.support)
        if not demonstrations:
            return {}
        scores = self._score(demonstrations, "the demonstrations")
        found: dict[str, list[dict[str, float]]] = {}
        for one, log_q in zip(demonstrations, scores["log_q"], strict=True):
            values = {
                "log_pf_reference": float(log_q),
                "log_pf_reference_per_token": float(log_q) / (len(one) + 1),
            }
            found.setdefault(one.query_id, []).append(values)
        return {query_id: mean_metrics(each) for query_id, each in found.items()}

    def _exact(self, one: Enumeration) -> ExactComparison:
        """Compares the policy with the posterior on every outcome of an enumeration."""
        support = self._data.support
        outcomes = [
            demonstration_trajectory(one.query_id, tokens, support) for tokens in one.outcomes
        ]
        scores = self._score(outcomes, "every outcome")
        log_target = one.log_reward / self._config.reward.temperature_end + scores["log_reference"]
        return ExactComparison.unnormalised(log_target, scores["log_q"], one.target)

    def _score(self, trajectories: list[Trajectory], what: str) -> Record:
        """The learner's scores of whole trajectories, in batches, because a call has a time
        limit."""
        size = self._config.sampler.queries_per_call * self._samples_of_a_query
        parts: list[Record] = []
        for start in range(0, len(trajectories), size):
            block = pack_trajectories(trajectories[start : start + size])
            parts.append(self._ask_to_score(block, what))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _ask_to_score(self, block: bytes, what: str) -> Record:
        scores: Record = self._workers.ask(
            self._workers.learner, f"score {what}", lambda actor: actor.score.remote(block)
        )
        return scores
