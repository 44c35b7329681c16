"""Converts evaluations and baselines to records of arrays and plain values, and back.

A resumed run reports its original measurements from before training, which are read, not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from gfn_ray.evaluation.calibration import SimulatedScores
from gfn_ray.evaluation.exact import ExactComparison
from gfn_ray.evaluation.posterior import QueryDiagnostics
from gfn_ray.evaluation.result import Baseline, Evaluation, QuerySamples, QueryTexts
from gfn_ray.evaluation.weights import WeightDiagnostics
from gfn_ray.storage.serialization import Record
from gfn_ray.storage.trajectories import from_columns, to_columns
from gfn_ray.trajectory import Query

Queries = Mapping[str, Query]


def evaluation_to_record(found: Evaluation) -> Record:
    return {
        "metrics": _floats(found.metrics),
        "mismatch": found.mismatch,
        "per_query": {name: _floats(values) for name, values in found.per_query.items()},
        "weights": {query_id: asdict(one) for query_id, one in found.weights.items()},
        "simulated": _numbered([asdict(one) for one in found.simulated]),
        "samples": _numbered([_samples_to_record(one) for one in found.samples]),
        "exact": _numbered(
            [
                {"log_target": one.log_target, "log_q": one.log_q, "target": one.target}
                for one in found.exact
            ]
        ),
    }


def evaluation_from_record(record: Record, queries: Queries) -> Evaluation:
    """queries: all evaluated ones, by id."""
    return Evaluation(
        metrics=record["metrics"],
        samples=[_samples_from_record(one, queries) for one in _listed(record["samples"])],
        exact=[ExactComparison(**one) for one in _listed(record["exact"])],
        mismatch=record["mismatch"],
        per_query=record["per_query"],
        weights={name: WeightDiagnostics(**one) for name, one in record["weights"].items()},
        simulated=[SimulatedScores(**one) for one in _listed(record["simulated"])],
    )


def baseline_to_record(found: Baseline) -> Record:
    return {
        "metrics": _floats(found.metrics),
        "texts": _numbered([_texts_to_record(one) for one in found.texts]),
    }


def baseline_from_record(record: Record, queries: Queries) -> Baseline:
    """queries: all measured ones, by id."""
    texts = [QueryTexts(**_texts(one, queries)) for one in _listed(record["texts"])]
    return Baseline(record["metrics"], texts)


def _samples_to_record(one: QuerySamples) -> Record:
    return {
        **_texts_to_record(one),
        "log_q": one.log_q,
        "diagnostics": asdict(one.diagnostics),
        "label_log_probs": one.label_log_probs,
    }


def _samples_from_record(record: Record, queries: Queries) -> QuerySamples:
    return QuerySamples(
        **_texts(record, queries),
        log_q=record["log_q"],
        diagnostics=QueryDiagnostics(**record["diagnostics"]),
        label_log_probs=record["label_log_probs"],
    )


def _texts_to_record(one: QueryTexts) -> Record:
    return {
        "query_id": one.query.query_id,
        "trajectories": to_columns(one.trajectories),
        "texts": one.texts,
        "parts": dict(one.parts),
    }


def _texts(record: Record, queries: Queries) -> Record:
    return {
        "query": queries[record["query_id"]],
        "trajectories": from_columns(record["trajectories"]),
        "texts": record["texts"],
        "parts": record["parts"],
    }


def _numbered(records: Sequence[Record]) -> Record:
    """Turns a list into a dict, because records with arrays nest only in dicts."""
    return {str(i): one for i, one in enumerate(records)}


def _listed(records: Record) -> list[Record]:
    return [records[str(i)] for i in range(len(records))]


def _floats(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
