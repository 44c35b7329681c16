"""Results of an evaluation, filled by runtime and read by tasks and reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gfn_ray.evaluation.calibration import SimulatedScores
from gfn_ray.evaluation.exact import ExactComparison
from gfn_ray.evaluation.posterior import QueryDiagnostics
from gfn_ray.evaluation.weights import WeightDiagnostics
from gfn_ray.trajectory import IntArray, Query, Trajectory

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class QueryTexts:
    """Scored z of one held-out query, from any source, and their texts. parts [S]: what else is
    known of each z, by the names of rewards/reward.py; empty where nobody kept it."""

    query: Query
    trajectories: list[Trajectory]
    texts: list[str]
    parts: Mapping[str, Array] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True)
class QuerySamples(QueryTexts):
    """On-policy samples of one held-out query. log_q [S]: whole z, in nats.

    label_log_probs [S, L]: log p(label | x, z), if the task's reward has labels.
    """

    log_q: Array
    diagnostics: QueryDiagnostics
    label_log_probs: Array | None = None


@dataclass(frozen=True)
class Enumeration:
    """All z of a held-out query with posterior mass. log_reward [N]: their untempered log R.
    target: the posterior's name, used in its metrics' names."""

    query_id: str
    target: str
    outcomes: list[IntArray]
    log_reward: Array


@dataclass(frozen=True)
class Evaluation:
    """metrics: by the task's names, in its order. samples: one entry per held-out query.
    exact: one entry for each of the task's enumerations.
    mismatch: KL of the engine from the learner, over samples of q, content tokens only.
    per_query: by query id, the metrics defined for a single query; without calibration queries,
    which are left out of means, too. weights: by query id, diagnostics of the diagnostic queries;
    simulated: one entry per simulated query. Both are empty for evaluations during training."""

    metrics: dict[str, float]
    samples: list[QuerySamples]
    exact: list[ExactComparison]
    mismatch: float
    per_query: dict[str, dict[str, float]] = field(default_factory=dict)
    weights: dict[str, WeightDiagnostics] = field(default_factory=dict)
    simulated: list[SimulatedScores] = field(default_factory=list)


@dataclass(frozen=True)
class Baseline:
    """Results of a decoder or classifier of the frozen LM on the held-out queries.

    metrics: the task's own, in its order. texts: one entry per held-out query; none for a
    classifier, which writes no z.
    """

    metrics: dict[str, float]
    texts: list[QueryTexts]


def mean_metrics(found: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean of each metric over the queries that have it; empty without queries."""
    values: dict[str, list[float]] = {}
    for one in found:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    return {name: float(np.mean(each)) for name, each in values.items()}
