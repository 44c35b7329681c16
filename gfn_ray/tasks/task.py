"""What a task is to the rest of the system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gfn_ray.trajectory import Query, Support, Trajectory


@dataclass(frozen=True)
class TaskData:
    """Queries to train on, queries held out for evaluation, and the policy's support."""

    train: list[Query]
    held_out: list[Query]
    support: Support


@dataclass(frozen=True)
class MetricInfo:
    """better: "higher", "lower" or "none". meaning: a few words for people."""

    better: str
    meaning: str


class Task(Protocol):
    """A family of posteriors p(z | query)."""

    name: str

    def load(self, tokenizer: Any, vocab_size: int) -> TaskData:
        """Reads the data and says which tokens are legal where.

        vocab_size: length of the model's logits, which may exceed the tokenizer's.
        """
        ...

    def text_metrics(
        self, query: Query, trajectories: Sequence[Trajectory], texts: Sequence[str]
    ) -> dict[str, float]:
        """Metrics of one query's decoded samples; the caller averages over queries."""
        ...

    def around(self, query: Query) -> tuple[str, str]:
        """Text shown before and after a sample of this query."""
        ...

    @property
    def metrics(self) -> dict[str, MetricInfo]:
        """Every metric of summary.json, in the order people read them."""
        ...
