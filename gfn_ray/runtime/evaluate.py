"""The policy on held-out queries, before and after: same queries, same seeds, on-policy.

Runs through the same actors as training and waits for each stage in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gfn_ray.config import JobConfig
from gfn_ray.evaluation.posterior import posterior_metrics
from gfn_ray.runtime.calls import PendingCalls
from gfn_ray.runtime.fleet import Fleet
from gfn_ray.tasks.references import reference_trajectories
from gfn_ray.tasks.task import Task, TaskData
from gfn_ray.trajectory import Query, Trajectory

# First entry of a sampling call's seed; training uses stream 0.
EVALUATION_STREAM = 1


@dataclass(frozen=True)
class QuerySamples:
    """On-policy samples of one held-out query. log_q [S]: whole z, in nats."""

    query: Query
    trajectories: list[Trajectory]
    texts: list[str]
    log_q: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """metrics: the task's names, in its order. samples: one entry a held-out query.
    mismatch: mean of (engine's log q - learner's) over samples, content tokens only."""

    metrics: dict[str, float]
    samples: list[QuerySamples]
    mismatch: float


def evaluate(
    config: JobConfig,
    task: Task,
    data: TaskData,
    fleet: Fleet,
    adapter: Any,
    decode: Callable[[Any], str],
) -> Evaluation:
    """Samples, scores and measures the adapter on every held-out query."""
    batches = _batches(data.held_out, config.sampler.queries_per_call)
    results = _sample_and_score(config, fleet, adapter, batches)
    samples = []
    for index, batch in enumerate(batches):
        wires, scores = results[index]
        trajectories = [Trajectory.from_wire(wire) for wire in wires]
        for i, query in enumerate(batch):
            own = slice(i * config.eval.samples, (i + 1) * config.eval.samples)
            texts = [decode(t.token_ids) for t in trajectories[own]]
            samples.append(QuerySamples(query, trajectories[own], texts, scores["log_q"][own]))
    mismatch = np.concatenate(
        [
            [wire["sampler_log_pf"] for wire in wires] - scores["log_pf"]
            for wires, scores in results.values()
        ]
    )
    metrics = _metrics(config, task, samples)
    reference = _reference_log_q(config, data, fleet)
    if reference is not None:
        metrics["log_pf_reference"] = reference
    ordered = {name: metrics[name] for name in task.metrics if name in metrics}
    return Evaluation(ordered, samples, float(np.mean(mismatch)))


def _sample_and_score(
    config: JobConfig, fleet: Fleet, adapter: Any, batches: list[list[Query]]
) -> dict[int, tuple[list[Any], dict[str, Any]]]:
    """Scored records and the learner's log q of each batch, by its index."""
    calls = PendingCalls(config.runtime.call_timeout_s, "runtime.call_timeout_s")
    results: dict[int, tuple[list[Any], dict[str, Any]]] = {}
    waiting = iter(enumerate(batches))

    def start(sampler: int) -> None:
        index, batch = next(waiting, (None, []))
        if index is None:
            return
        records, info = (
            fleet.samplers[sampler]
            .sample.options(num_returns=2)
            .remote(
                adapter,
                [query.query_id for query in batch],
                # Seeded by the batch alone, whichever sampler takes it.
                [config.seed, EVALUATION_STREAM, index],
                config.eval.samples,
            )
        )

        def sampled(_: Any) -> None:
            start(sampler)
            score(index, records)

        calls.add(info, f"sampler {sampler}", "sample held-out queries", sampled)

    def score(index: int, records: Any) -> None:
        reward = index % len(fleet.rewards)
        scored, info = fleet.rewards[reward].score.options(num_returns=2).remote(records)
        calls.add(info, f"reward actor {reward}", "score samples", lambda _: measure(index, scored))

    def measure(index: int, scored: Any) -> None:
        calls.add(
            fleet.learner.score.remote(scored),
            "the learner",
            "score samples",
            lambda log_q: calls.add(
                scored,
                "the object store",
                "hand over samples",
                lambda wires: results.__setitem__(index, (wires, log_q)),
            ),
        )

    for sampler in range(len(fleet.samplers)):
        start(sampler)
    calls.run_all()
    return results


def _metrics(config: JobConfig, task: Task, samples: list[QuerySamples]) -> dict[str, float]:
    temperature = config.reward.temperature_end
    ratios, rewards, texts = [], [], []
    for one in samples:
        log_reward = np.array([t.final_log_reward for t in one.trajectories])
        ratios.append(log_reward / temperature - one.log_q)
        rewards.append(log_reward.mean())
        texts.append(task.text_metrics(one.query, one.trajectories, one.texts))
    averaged = {name: float(np.mean([m[name] for m in texts])) for name in texts[0]}
    return {
        **posterior_metrics(ratios),
        "log_reward_mean": float(np.mean(rewards)),
        **averaged,
    }


def _reference_log_q(config: JobConfig, data: TaskData, fleet: Fleet) -> float | None:
    """Mean log q of the known good z of held-out queries; None where none is in the support."""
    references = reference_trajectories(data, data.held_out)
    if not references:
        return None
    calls = PendingCalls(config.runtime.call_timeout_s, "runtime.call_timeout_s")
    values: list[float] = []
    calls.add(
        fleet.learner.score.remote([t.to_wire() for t in references]),
        "the learner",
        "score the references",
        lambda scores: values.append(float(np.mean(scores["log_q"]))),
    )
    calls.run_all()
    return values[0]


def _batches(queries: list[Query], size: int) -> list[list[Query]]:
    return [queries[start : start + size] for start in range(0, len(queries), size)]
