"""Baselines: decoders of the frozen LM on the held-out queries, run by the reward actors.

One actor decodes and scores each batch of queries. Decoders are measured once, before training,
with the same metrics as the policy, and with what they cost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from gfn_ray.config import JobConfig
from gfn_ray.decoding.decoder import Decoder
from gfn_ray.decoding.resampling import Weights, best_of
from gfn_ray.evaluation.result import Baseline, QueryTexts, mean_metrics
from gfn_ray.runs.nonfinite_batches import NonFiniteBatches
from gfn_ray.runtime.actors.worker_group import WorkerGroup
from gfn_ray.runtime.supervision.worker import Worker
from gfn_ray.seeds import Seed, Stream, generator, seed_of
from gfn_ray.storage.trajectories import unpack_trajectories
from gfn_ray.tasks.task import Task, TaskData
from gfn_ray.trajectory import Trajectory


class _Scored(NamedTuple):
    """parts: what the reward tells of it beside log R, by name."""

    z: Trajectory
    parts: Mapping[str, float]


@dataclass(frozen=True)
class _Written:
    """What was written for each query, by id, and the cost of all of it together: tokens that the
    LM chose, None if that is not known, and texts whose log R decided something."""

    by_query: dict[str, list[_Scored]]
    tokens: int | None
    scored: int

    @property
    def cost(self) -> dict[str, float]:
        found = {"texts_scored": float(self.scored)}
        return found if self.tokens is None else {"tokens_sampled": float(self.tokens), **found}


class Decoders:
    """Measures decoders. Those that select among samples share them."""

    def __init__(
        self,
        config: JobConfig,
        task: Task,
        data: TaskData,
        workers: WorkerGroup,
        bad: NonFiniteBatches,
        to_text: Callable[[Any], str],
    ) -> None:
        self._config = config
        self._task = task
        self._data = data
        self._workers = workers
        self._bad = bad
        self._to_text = to_text
        self._samples: tuple[int, _Written] | None = None

    def measure(self, decoder: Decoder) -> Baseline:
        """Decodes eval.samples z per held-out query and returns them with the task's metrics."""
        task, written = self._task, self._written(decoder)
        texts = []
        for index, query in enumerate(self._data.held_out):
            found = written.by_query[query.query_id]
            if decoder.selects:
                found = self._selected(decoder, found, index)
            decoded = [self._to_text(one.z.token_ids) for one in found]
            parts = {name: np.array([one.parts[name] for one in found]) for name in found[0].parts}
            texts.append(QueryTexts(query, [one.z for one in found], decoded, parts=parts))
        rewards = [np.mean([t.final_log_reward for t in one.trajectories]) for one in texts]
        metrics = {
            "log_reward_mean": float(np.mean(rewards)),
            **mean_metrics(task.query_metrics(texts)),
            **task.sample_metrics(texts),
        }
        measured = {name: metrics[name] for name in task.metrics if name in metrics}
        return Baseline({**measured, **written.cost}, texts)

    def _selected(self, decoder: Decoder, found: list[_Scored], query: int) -> list[_Scored]:
        """eval.samples of a query's samples. query: its number."""
        log_reward = np.array([one.z.final_log_reward for one in found])
        if decoder.kind == "best_of":
            return [found[i] for i in best_of(log_reward, decoder.candidates)]
        log_q = np.array([one.z.sampler_log_content + one.z.sampler_log_stop for one in found])
        weights = Weights.of(log_reward / self._config.reward.temperature_end - log_q)
        rng = generator(seed_of(Stream.DECODER_SELECTION, self._config.seed, query))
        return [found[i] for i in weights.draw(self._config.eval.samples, rng)]

    def _written(self, decoder: Decoder) -> _Written:
        if not decoder.selects:
            return self._decoded_and_scored(decoder)
        if self._samples is None or self._samples[0] != decoder.candidates:
            self._samples = decoder.candidates, self._decoded_and_scored(decoder)
        return self._samples[1]

    def _decoded_and_scored(self, decoder: Decoder) -> _Written:
        """Returns the scored trajectories of all held-out queries."""
        config, data, calls = self._config, self._data, self._workers.calls()
        by_query: dict[str, list[_Scored]] = defaultdict(list)
        tokens: list[int | None] = []
        scored_on_the_way = 0
        # A call writes as many z side by side whatever the decoder, for its time and memory.
        size = max(1, config.sampler.queries_per_call // decoder.side_by_side)
        waiting = iter(range(0, len(data.held_out), size))

        async def decode(worker: Worker) -> None:
            """Decodes and scores one batch, decoding the next while this one is scored. An actor
            has one of each at a time, because a call's time limit is meant for one batch."""
            nonlocal scored_on_the_way
            index = next(waiting, None)
            if index is None:
                return
            ids = [query.query_id for query in data.held_out[index : index + size]]
            seed = seed_of(Stream.DECODER, config.seed, index)
            decoded, cost = await calls.make(
                worker,
                f"decode held-out queries ({decoder.name})",
                partial(_decode, decoder, ids, config.eval.samples, seed),
            )
            tokens.append(cost["chosen"])
            scored_on_the_way += cost["scored"]
            score = calls.make(worker, "score decoded texts", partial(_score, decoded))
            calls.start(decode(worker))
            scored, info = await score
            found = unpack_trajectories(await calls.fetch(scored, "hand over decoded texts"))
            self._bad.check_measured(found, info["faults"])
            for place, z in enumerate(found):
                parts = {name: float(part[place]) for name, part in info["parts"].items()}
                by_query[z.query_id].append(_Scored(z, parts))

        for worker in self._workers.rewards:
            calls.start(decode(worker))
        calls.run_all()
        known = [one for one in tokens if one is not None]
        texts = sum(map(len, by_query.values()))
        return _Written(
            by_query,
            sum(known) if len(known) == len(tokens) else None,
            # log R of the others is known only to be measured.
            texts if decoder.selects else scored_on_the_way,
        )


def _decode(decoder: Decoder, ids: list[str], samples: int, seed: Seed, actor: Any) -> Any:
    return actor.decode.options(num_returns=2).remote(decoder, ids, samples, seed)


def _score(block: Any, actor: Any) -> Any:
    return actor.score.options(num_returns=2).remote(block)
