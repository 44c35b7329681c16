"""`gfn_ray.open`, `gfn_ray.sample` and `gfn_ray.predict`: a trained adapter in a line of Python.

Thin functions around `ServedPolicy`. Starting the engine takes seconds, so whoever has
several queries opens the policy once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gfn_ray.serving.policy import Prediction, Sample, ServedPolicy


def open(
    adapter: str | Path,
    *,
    task: type[Any] | None = None,
    model: str | None = None,
    trust_remote_code: bool = False,
) -> ServedPolicy:
    """The policy of an adapter directory; close it, or use it in a `with` statement.

    task: your task's class, where it is not a built-in one. model: directory or hub id of the
    base model, where it is not where the run had it. trust_remote_code: run Python code that
    the model's repository ships; what the adapter's run allowed does not count here.

    Raises UserError, here or at the first sample, where a file, a field or a model is at fault.
    """
    return ServedPolicy(adapter, task=task, model=model, trust_remote_code=trust_remote_code)


def sample(
    adapter: str | Path,
    query: Mapping[str, str] | None = None,
    n: int = 8,
    *,
    seed: int = 0,
    task: type[Any] | None = None,
    model: str | None = None,
    trust_remote_code: bool = False,
) -> list[Sample]:
    """n independent samples of q(z | query); see `open` and `ServedPolicy.sample`."""
    with open(adapter, task=task, model=model, trust_remote_code=trust_remote_code) as policy:
        return policy.sample(query, n, seed=seed)


def predict(
    adapter: str | Path,
    query: Mapping[str, str] | None = None,
    n: int = 16,
    *,
    seed: int = 0,
    task: type[Any] | None = None,
    model: str | None = None,
    trust_remote_code: bool = False,
) -> Prediction:
    """Answers averaged over n samples; see `open` and `ServedPolicy.predict`."""
    with open(adapter, task=task, model=model, trust_remote_code=trust_remote_code) as policy:
        return policy.predict(query, n, seed=seed)
