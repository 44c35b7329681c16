"""`gfn_ray.open`, `gfn_ray.sample` and `gfn_ray.predict`: a trained adapter in a line of Python.

Thin functions around `ServedPolicy`. Starting the engine takes seconds, so open the policy once
for several queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gfn_ray.serving.policy import ServedPolicy
from gfn_ray.serving.samples import Prediction, Sample


def open(
    adapter: str | Path,
    *,
    task: type[Any] | None = None,
    model: str | None = None,
    base_adapter: str | Path | None = None,
    trust_remote_code: bool = False,
    reward: Any = None,
) -> ServedPolicy:
    """Opens the policy of an adapter directory; close it, or use it in a `with` statement.

    task: your task's class, if it is not built in. model: directory or hub id of the base model,
    if it is no longer where the run had it. base_adapter: the directory of
    --task.base-adapter, likewise. trust_remote_code: run Python code that the model's repository
    ships; what the adapter's run allowed does not count here. reward: of a run of prompts, its
    reward function or functions, which weighing samples needs and naming does not import.

    Files and settings are read now; the engine, which takes seconds to start, starts with the
    first sample. Raises gfn_ray.errors.UserError, here or at the first sample, for an invalid file,
    field or model.
    """
    return ServedPolicy(
        adapter,
        task=task,
        model=model,
        base_adapter=base_adapter,
        trust_remote_code=trust_remote_code,
        reward=reward,
    )


def sample(
    adapter: str | Path,
    query: Mapping[str, str] | None = None,
    n: int = 8,
    *,
    seed: int = 0,
    task: type[Any] | None = None,
    model: str | None = None,
    base_adapter: str | Path | None = None,
    trust_remote_code: bool = False,
    reward: Any = None,
    resample: bool = False,
    candidates: int | None = None,
) -> list[Sample]:
    """Draws n independent z from q(z | query), each with its text, tokens and log q in nats.

    query: a text for each of the task's fields. infill: beginning, ending. arithmetic: question.
    continuation: prompt. prompts: prompt, and any columns that its reward reads. subjectivity:
    text. random_number: none. n: at least 1. seed: at least 0; the same seed gives the same
    samples. task, model, base_adapter, trust_remote_code and reward: as in `open`.

    resample: draw the n from more candidates by R / q, which is closer to the posterior than q; the
    list has the candidates' effective_sample_size. candidates: how many; default: 4 n.

    Starts and stops an engine, which takes seconds: for several queries `open` the policy once.
    Raises gfn_ray.errors.UserError for an invalid argument, file or model.
    """
    with open(
        adapter,
        task=task,
        model=model,
        base_adapter=base_adapter,
        trust_remote_code=trust_remote_code,
        reward=reward,
    ) as policy:
        return policy.sample(query, n, seed=seed, resample=resample, candidates=candidates)


def predict(
    adapter: str | Path,
    query: Mapping[str, str] | None = None,
    n: int = 16,
    *,
    seed: int = 0,
    task: type[Any] | None = None,
    model: str | None = None,
    base_adapter: str | Path | None = None,
    trust_remote_code: bool = False,
    reward: Any = None,
    weighted: bool = False,
) -> Prediction:
    """Returns answers averaged over n samples, by descending weight; see `Prediction`.

    For tasks whose z ends in an answer or explains a label, among the built-in ones arithmetic,
    random_number and subjectivity. Weights and the share of samples without an answer sum to 1.
    n: at least 1. weighted: weigh samples by R / q, rather than alike. query, seed, the time it
    takes and the rest: as in `sample`.

    Raises gfn_ray.errors.UserError as `sample`, and for a task whose z gives no answer.
    """
    with open(
        adapter,
        task=task,
        model=model,
        base_adapter=base_adapter,
        trust_remote_code=trust_remote_code,
        reward=reward,
    ) as policy:
        return policy.predict(query, n, seed=seed, weighted=weighted)
