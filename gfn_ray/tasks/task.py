"""What a task is to the rest of the system."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gfn_ray.config import JobConfig, SamplerConfig
from gfn_ray.decoding.decoder import Decoder
from gfn_ray.errors import UserError
from gfn_ray.evaluation.result import Baseline, Enumeration, Evaluation, QueryTexts
from gfn_ray.rewards.reward import Reward
from gfn_ray.sampling.tools import Tool
from gfn_ray.support import Support
from gfn_ray.tasks.label_plan import LabelPlan
from gfn_ray.trajectory import Query


@dataclass(frozen=True)
class TaskData:
    """Queries to train on, queries held out for evaluation, the policy's support and the target.

    enumerations: held-out queries whose posterior can be listed whole, for exact comparison.
    decoders: what else is asked of the frozen LM on the held-out queries, for comparison.
    tool: writes the parts of z that the support leaves to a tool.
    labels: EM, for a reward with labels; such a task is a `PredictsLabels`.
    calibration: ids of held-out queries that only correct the predictions for others; they are
        sampled with those, and left out of every mean over queries.
    notes: what a person should know of how the data came about, a line each.
    chats: prompts are put into the model's chat template.
    """

    train: list[Query]
    held_out: list[Query]
    support: Support
    reward: Reward
    enumerations: list[Enumeration] = field(default_factory=list)
    tool: Tool | None = None
    decoders: list[Decoder] = field(default_factory=list)
    labels: LabelPlan | None = None
    calibration: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    chats: bool = False


@dataclass(frozen=True)
class MetricInfo:
    """better: "higher", "lower" or "none". meaning: a few words for people."""

    better: str
    meaning: str


# What every task can say of its posterior; see evaluation/posterior.py and weights.py.
DIAGNOSTICS = {
    "log_ratio_var": MetricInfo("lower", "Var(log R/T - log q) within a query; 0: exact"),
    "tempered_ratio_var": MetricInfo("lower", "the same on tempered samples; 0: exact"),
    "elbo": MetricInfo("higher", "mean log R/T - log q, a bound on log Z"),
    "log_z": MetricInfo("none", "importance-weighted log Z, a lower bound"),
    "log_z_gap": MetricInfo("lower", "log_z - elbo, a lower bound of KL; 0: exact"),
    "ess_fraction": MetricInfo("higher", "effective share of the samples, an upper bound"),
    "diagnostic_log_z_gap": MetricInfo("lower", "the gap of eval.diagnostic_samples each"),
    "diagnostic_ess_fraction": MetricInfo("higher", "the share of these that is effective"),
    # No verdict: below the alarm fewer are no better policy.
    "pareto_k_above": MetricInfo("none", "queries whose weights mislead, by Pareto k; a share"),
    "pareto_k_unfitted": MetricInfo("none", "queries of too few different z for a k; a share"),
}


@dataclass(frozen=True)
class TaskSummary:
    """findings: lines for the report. files: plots, for the run directory and MLflow."""

    findings: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def check_prompt_lengths(what: str, queries: Sequence[Query], sampler: SamplerConfig) -> None:
    """Raises UserError for a prompt that the sampling engine has no room for.

    what: what a query of this task is called, as in "the prompt of story 'x'".
    """
    for query in queries:
        if len(query.prompt_ids) > sampler.max_prompt_tokens:
            raise UserError(
                f"the prompt of {what} {query.query_id!r} has {len(query.prompt_ids)} tokens; "
                f"sampler.max_prompt_tokens allows {sampler.max_prompt_tokens}"
            )


def check_parts(what: str, train: Sequence[object], held_out: Sequence[object], asked: int) -> None:
    """Raises UserError where the data has fewer than eval.queries held out, or none to train on.

    what: what the data consists of, as in "stories". asked: eval.queries.
    """
    if len(held_out) < asked:
        raise UserError(
            f"eval.queries asks for {asked} held-out {what}, the data has {len(held_out)}; lower "
            f"it or give more {what}"
        )
    if not train:
        raise UserError(
            f"none of the {len(held_out)} {what} falls into the training split; give more"
        )


def check_data(name: str, data: TaskData, sampler: SamplerConfig, vocab_size: int) -> None:
    """Raises UserError where a task's data cannot carry a run.

    vocab_size: length of the model's logits, as `Task.load` was told.
    """
    for what, queries in (("training", data.train), ("held-out", data.held_out)):
        if not queries:
            raise UserError(f"load() of task {name} gave no {what} queries; it needs at least one")
        ids = Counter(query.query_id for query in queries)
        if twice := [one for one, times in ids.items() if times > 1]:
            raise UserError(
                f"load() of task {name} gave two {what} queries the id {twice[0]!r}; samples "
                "are kept by id, so each needs its own"
            )
        if empty := [query.query_id for query in queries if not len(query.prompt_ids)]:
            raise UserError(
                f"load() of task {name} gave the {what} query {empty[0]!r} an empty prompt; the "
                "policy needs at least one token to read, such as the beginning of a text"
            )
        check_prompt_lengths("query", queries, sampler)
    known = {query.query_id: query for query in data.train}
    for query in data.held_out:
        if query.query_id in known and not _alike(query, known[query.query_id]):
            raise UserError(
                f"load() of task {name} gave the id {query.query_id!r} to a training and to "
                "another held-out query; queries are known by their ids, so each needs its own"
            )
    if data.support.vocab_size != vocab_size:
        raise UserError(
            f"the support of task {name} covers {data.support.vocab_size} tokens, the model's "
            f"logits {vocab_size}; build its masks with the vocab_size that load() is given"
        )


def _alike(one: Query, other: Query) -> bool:
    names = ("prompt_ids", "context_ids", "answer_ids")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def check_positions(data: TaskData, sampler: SamplerConfig, positions: int | None) -> None:
    """Raises UserError where the model cannot read a query with the longest z.

    positions: the longest text in tokens that it reads, if it says so.
    """
    if positions is None:
        return
    longest_z = data.support.max_len
    engine = sampler.engine_length(longest_z)
    if engine > positions:
        raise UserError(
            f"sampler.max_prompt_tokens ({sampler.max_prompt_tokens}), the longest z ({longest_z} "
            f"tokens) and its end make {engine} tokens, and the model of model.name reads "
            f"{positions}; lower sampler.max_prompt_tokens or choose another model.name"
        )
    for query in (*data.train, *data.held_out):
        length = len(query.context_ids) + longest_z + len(query.answer_ids)
        if length > positions:
            raise UserError(
                f"query {query.query_id!r} with the longest z ({longest_z} tokens) and its answer "
                f"is {length} tokens for the reward, and the model of model.name reads "
                f"{positions}; leave the query out or choose another model.name"
            )
    for classifier in () if data.labels is None else data.labels.classifiers:
        answer = max(map(len, classifier.answers))
        query_id, longest = max(classifier.contexts.items(), key=lambda item: len(item[1]))
        if len(longest) + answer > positions:
            raise UserError(
                f"query {query_id!r} is {len(longest) + answer} tokens for {classifier.name}, and "
                f"the model of model.name reads {positions}; lower task.shots, leave long texts "
                "out or choose another model.name"
            )


@runtime_checkable
class Task(Protocol):
    """A family of posteriors p(z | query). `tasks.base` has defaults to inherit."""

    name: str

    @property
    def job(self) -> type[JobConfig]:
        """The settings that the task is made of."""
        ...

    @property
    def fields(self) -> tuple[str, ...]:
        """The named texts that `query` takes."""
        ...

    def load(self, tokenizer: Any, vocab_size: int) -> TaskData:
        """Reads the data and says which tokens are legal where.

        vocab_size: length of the model's logits, which may exceed the tokenizer's.
        """
        ...

    def support(self, tokenizer: Any, vocab_size: int) -> Support:
        """The support of `load`, for a trained policy that is served where the data are not."""
        ...

    @property
    def tool(self) -> Tool | None:
        """The tool of `load`, likewise."""
        ...

    def query(self, fields: Mapping[str, str], tokenizer: Any) -> Query:
        """A query of a person's own; `fields` has a text for each name in self.fields."""
        ...

    @property
    def further_fields(self) -> bool:
        """Whether `query` takes texts of other names too."""
        ...

    def target(self, tokenizer: Any, vocab_size: int) -> Reward:
        """log R of the latest `query`, to weigh samples by.

        Raises UserError where it cannot be had, as where it needs the right answer.
        """
        ...

    def answer(self, query: Query, text: str) -> str | None:
        """The answer that a sample stands for; None where this one gives none.

        Raises UserError where z of this task is no answer at all.
        """
        ...

    def query_metrics(self, samples: Sequence[QueryTexts]) -> list[dict[str, float]]:
        """Metrics of this task's own, one entry a held-out query; reported as their means.

        A run stores each query's, and runs are compared by them.
        """
        ...

    def sample_metrics(self, samples: Sequence[QueryTexts]) -> dict[str, float]:
        """Those of all held-out queries together that are no such mean."""
        ...

    def context_text(self, query: Query) -> tuple[str, str]:
        """Text shown before and after a sample of this query."""
        ...

    def summarize(
        self,
        before: Evaluation,
        after: Evaluation,
        directory: Path,
        baselines: Mapping[str, Baseline],
    ) -> TaskSummary:
        """What this task alone can say or draw about a run; files go into the directory.

        baselines: one entry for each of the task's decoders and classifiers, by name.
        """
        ...

    @property
    def metrics(self) -> dict[str, MetricInfo]:
        """Every metric of summary.json, in the order people read them."""
        ...
