"""Baselines: decoders of the frozen LM on the held-out queries, run by the reward actors.

One actor decodes and scores each batch of queries. Decoders are measured once, before training,
with the same metrics as the policy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from gfn_ray.config import JobConfig
from gfn_ray.decoding.decoder import Decoder
from gfn_ray.evaluation.result import Baseline, QueryTexts, mean_metrics
from gfn_ray.runs.nonfinite_batches import NonFiniteBatches
from gfn_ray.runtime.actors.worker_group import WorkerGroup
from gfn_ray.runtime.supervision.worker import Worker
from gfn_ray.seeds import Seed, Stream, seed_of
from gfn_ray.storage.trajectories import unpack_trajectories
from gfn_ray.tasks.task import Task, TaskData
from gfn_ray.trajectory import Trajectory


def measure_decoder(
    config: JobConfig,
    task: Task,
    data: TaskData,
    workers: WorkerGroup,
    bad: NonFiniteBatches,
    to_text: Callable[[Any], str],
    decoder: Decoder,
) -> Baseline:
    """Decodes eval.samples z per held-out query and returns them with the task's metrics."""
    by_query: dict[str, list[Trajectory]] = defaultdict(list)
    for trajectory in _decoded_and_scored(config, data, workers, bad, decoder):
        by_query[trajectory.query_id].append(trajectory)
    texts = [
        QueryTexts(query, found, [to_text(t.token_ids) for t in found])
        for query in data.held_out
        for found in [by_query[query.query_id]]
    ]
    rewards = [np.mean([t.final_log_reward for t in one.trajectories]) for one in texts]
    metrics = {
        "log_reward_mean": float(np.mean(rewards)),
        **mean_metrics(task.query_metrics(texts)),
        **task.sample_metrics(texts),
    }
    return Baseline({name: metrics[name] for name in task.metrics if name in metrics}, texts)


def _decoded_and_scored(
    config: JobConfig, data: TaskData, workers: WorkerGroup, bad: NonFiniteBatches, decoder: Decoder
) -> list[Trajectory]:
    """Returns the scored trajectories of all held-out queries, in any order."""
    calls = workers.calls()
    results: list[Trajectory] = []
    size = config.sampler.queries_per_call
    waiting = iter(range(0, len(data.held_out), size))

    async def decode(worker: Worker) -> None:
        """Decodes and scores one batch, decoding the next while this one is scored. An actor has
        one of each at a time, because a call's time limit is meant for one batch."""
        index = next(waiting, None)
        if index is None:
            return
        ids = [query.query_id for query in data.held_out[index : index + size]]
        seed = seed_of(Stream.DECODER, config.seed, index)
        decoded, _ = await calls.make(
            worker,
            f"decode held-out queries ({decoder.name})",
            partial(_decode, decoder, ids, config.eval.samples, seed),
        )
        score = calls.make(worker, "score decoded texts", partial(_score, decoded))
        calls.start(decode(worker))
        scored, info = await score
        found = unpack_trajectories(await calls.fetch(scored, "hand over decoded texts"))
        bad.check_measured(found, info["faults"])
        results.extend(found)

    for worker in workers.rewards:
        calls.start(decode(worker))
    calls.run_all()
    return results


def _decode(decoder: Decoder, ids: list[str], samples: int, seed: Seed, actor: Any) -> Any:
    return actor.decode.options(num_returns=2).remote(decoder, ids, samples, seed)


def _score(block: Any, actor: Any) -> Any:
    return actor.score.options(num_returns=2).remote(block)
