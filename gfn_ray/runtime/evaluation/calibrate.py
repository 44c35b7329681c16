"""Measures the policy on simulated queries, before and after training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gfn_ray.config import JobConfig
from gfn_ray.decoding.simulation import SimulatedQuery
from gfn_ray.evaluation.calibration import SimulatedScores
from gfn_ray.evaluation.result import Array
from gfn_ray.runtime.evaluation.scoring import Draw, Scored, Scoring
from gfn_ray.seeds import Seed
from gfn_ray.support import Support
from gfn_ray.tasks.demonstrations import demonstration_trajectory


def simulated_scores(
    config: JobConfig,
    support: Support,
    scoring: Scoring,
    simulated: Sequence[SimulatedQuery],
    adapter: Any,
    seed: Seed,
) -> list[SimulatedScores]:
    """Scores z* and eval.simulated_samples on-policy samples of each simulated query."""
    size, samples = config.sampler.queries_per_call, config.eval.simulated_samples
    batches = [simulated[start : start + size] for start in range(0, len(simulated), size)]
    draws = [Draw([one.query for one in batch], samples, simulated=True) for batch in batches]
    sampled = scoring.sampled(adapter, draws, seed)
    found = []
    for index, batch in enumerate(batches):
        exact = [
            demonstration_trajectory(one.query.query_id, one.token_ids, support) for one in batch
        ]
        of_exact = _columns(scoring.given(exact, draws[index].queries), 1)
        of_samples = _columns(sampled[index], samples)
        both = np.concatenate([of_exact, of_samples], axis=2)  # [4, queries, 1 + S]
        found += [
            SimulatedScores(one.query.query_id, one.log_density, *both[:, i])
            for i, one in enumerate(batch)
        ]
    return found


def _columns(scored: Scored, each: int) -> Array:
    """log R, log_reference, log q and length of z [4, queries, each]."""
    trajectories, scores = scored
    columns = [
        [t.final_log_reward for t in trajectories],
        scores["log_reference"],
        scores["log_q"],
        [len(t) for t in trajectories],
    ]
    return np.array(columns, dtype=np.float64).reshape(len(columns), -1, each)
