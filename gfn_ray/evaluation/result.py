"""What an evaluation found: the records that runtime fills and tasks and reports read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gfn_ray.evaluation.exact import ExactComparison
from gfn_ray.evaluation.posterior import QueryDiagnostics
from gfn_ray.evaluation.weights import WeightDiagnostics
from gfn_ray.trajectory import IntArray, Query, Trajectory

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class QueryTexts:
    """Scored z of one held-out query, whoever wrote them, and their texts."""

    query: Query
    trajectories: list[Trajectory]
    texts: list[str]


@dataclass(frozen=True)
class QuerySamples(QueryTexts):
    """On-policy samples of one held-out query. log_q [S]: whole z, in nats.

    label_log_probs [S, L]: log p(label | x, z), where the task's reward has labels.
    """

    log_q: Array
    diagnostics: QueryDiagnostics
    label_log_probs: Array | None = None


@dataclass(frozen=True)
class Enumeration:
    """Every z of a held-out query that counts. log_reward [N]: their untempered log R.
    target: the posterior's name, as metrics of it are called."""

    query_id: str
    target: str
    outcomes: list[IntArray]
    log_reward: Array


@dataclass(frozen=True)
class Evaluation:
    """metrics: the task's names, in its order. samples: one entry a held-out query.
    exact: one entry for each of the task's enumerations.
    mismatch: the engine's KL from the learner, over samples of q, content tokens only.
    per_query: by query id, the metrics that have a value for a single query; without those
    that are there for calibration, which no mean has either. weights: by query id, the diagnosis
    of the diagnostic queries; empty on the way."""

    metrics: dict[str, float]
    samples: list[QuerySamples]
    exact: list[ExactComparison]
    mismatch: float
    per_query: dict[str, dict[str, float]] = field(default_factory=dict)
    weights: dict[str, WeightDiagnostics] = field(default_factory=dict)


@dataclass(frozen=True)
class Baseline:
    """What a decoder, or a classifier, makes of the frozen LM on the held-out queries.

    metrics: the task's own, in its order. texts: one entry a held-out query; none of a
    classifier, which writes no z.
    """

    metrics: dict[str, float]
    texts: list[QueryTexts]


def mean_metrics(found: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric over the queries that have it; nothing where there are none."""
    values: dict[str, list[float]] = {}
    for one in found:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    return {name: float(np.mean(each)) for name, each in values.items()}
