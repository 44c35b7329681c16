"""A base class with defaults for the optional parts of `Task`.

A task need not inherit from it: only the protocol counts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from gfn_ray.config import JobConfig
from gfn_ray.errors import UserError
from gfn_ray.evaluation.result import Baseline, Evaluation, QueryTexts
from gfn_ray.evaluation.text_metrics.text import distinct_fraction
from gfn_ray.rewards.reward import Reward
from gfn_ray.sampling.tools import Tool
from gfn_ray.support import Support
from gfn_ray.tasks.task import DIAGNOSTICS, MetricInfo, TaskData, TaskSummary
from gfn_ray.trajectory import Query

ConfigT = TypeVar("ConfigT", bound=JobConfig)


class BaseTask(ABC, Generic[ConfigT]):
    """A subclass defines `name`, `job` and `load`; to be served, also `fields` and `query`."""

    name: str
    job: type[ConfigT]
    fields: tuple[str, ...] = ()
    further_fields: bool = False
    reads_chats: bool = False

    def __init__(self, config: ConfigT) -> None:
        self._config = config

    @abstractmethod
    def load(self, tokenizer: Any, vocab_size: int) -> TaskData:
        """See `Task.load`."""

    def support(self, tokenizer: Any, vocab_size: int) -> Support:
        """Returns the support of `load`, which reads the data; override it to do without them."""
        return self.load(tokenizer, vocab_size).support

    @property
    def tool(self) -> Tool | None:
        return None

    def query(self, fields: Mapping[str, str], tokenizer: Any) -> Query:
        raise UserError(
            f"task {self.name} takes no queries from outside: {type(self).__name__} has no "
            "query(fields, tokenizer)"
        )

    def target(self, tokenizer: Any, vocab_size: int) -> Reward:
        """That of `load`, for a task whose log R needs no more than `query` has."""
        return self.load(tokenizer, vocab_size).reward

    def answer(self, query: Query, text: str) -> str | None:
        raise UserError(
            f"z of task {self.name} gives no answer to average over, since "
            f"{type(self).__name__} has no answer(query, text); use gfn_ray.sample"
        )

    def metrics_of(self, one: QueryTexts) -> dict[str, float]:
        """Returns metrics of one held-out query's samples; a run reports their means."""
        return {
            "stopped_fraction": float(np.mean([t.stopped for t in one.trajectories])),
            "distinct_fraction": distinct_fraction(one.texts),
            "length_mean": float(np.mean([len(t) for t in one.trajectories])),
        }

    def query_metrics(self, samples: Sequence[QueryTexts]) -> list[dict[str, float]]:
        return [self.metrics_of(one) for one in samples]

    def sample_metrics(self, samples: Sequence[QueryTexts]) -> dict[str, float]:
        return {}

    @property
    def metrics(self) -> dict[str, MetricInfo]:
        return {
            **DIAGNOSTICS,
            "log_reward_mean": MetricInfo("higher", "untempered log R of the samples"),
            "stopped_fraction": MetricInfo("higher", "samples that stop before max_len"),
            "distinct_fraction": MetricInfo("higher", "different texts among a query's samples"),
            "length_mean": MetricInfo("none", "tokens of z"),
        }

    def context_text(self, query: Query) -> tuple[str, str]:
        return "\n".join(query.texts.values()), ""

    def summarize(
        self,
        before: Evaluation,
        after: Evaluation,
        directory: Path,
        baselines: Mapping[str, Baseline],
    ) -> TaskSummary:
        return TaskSummary()
