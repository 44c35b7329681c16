"""The interface of a task, its data, and checks of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gfn_ray.config import JobConfig, SamplerConfig
from gfn_ray.decoding.decoder import Decoder
from gfn_ray.decoding.simulation import Simulation
from gfn_ray.errors import UserError
from gfn_ray.evaluation.result import Baseline, Enumeration, Evaluation, QueryTexts
from gfn_ray.rewards.reward import Reward
from gfn_ray.sampling.tools import Tool
from gfn_ray.support import Support
from gfn_ray.tasks.label_plan import LabelPlan
from gfn_ray.tasks.star_plan import StarPlan
from gfn_ray.trajectory import Query


@dataclass(frozen=True)
class TaskData:
    """Queries to train on, queries held out for evaluation, the policy's support and the target.

    enumerations: held-out queries whose whole posterior can be listed, for exact comparison.
    decoders: other decoders of the frozen LM on the held-out queries, for comparison.
    tool: writes the parts of z that the support leaves to a tool.
    labels: EM, for a reward with labels; such a task is a `PredictsLabels`.
    star: rounds of STaR, in place of updates by the objective.
    calibration: ids of held-out queries that only calibrate the predictions for others; they are
        sampled, too, but left out of every mean over queries.
    simulation: how the frozen LM writes queries of this task together with exact draws of their
        posteriors; None if it cannot.
    reads_reference: whether log p_ref of held-out samples is read below the policy's adapter, for
        metrics of a log R without it; one more forward pass over them.
    notes: remarks for people on how the data were made, one line each.
    """

    train: list[Query]
    held_out: list[Query]
    support: Support
    reward: Reward
    enumerations: list[Enumeration] = field(default_factory=list)
    tool: Tool | None = None
    decoders: list[Decoder] = field(default_factory=list)
    labels: LabelPlan | None = None
    star: StarPlan | None = None
    simulation: Simulation | None = None
    calibration: frozenset[str] = frozenset()
    reads_reference: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MetricInfo:
    """better: "higher", "lower" or "none". meaning: a few words for people."""

    better: str
    meaning: str


# Diagnostics of the posterior for every task; see evaluation/posterior.py and weights.py.
DIAGNOSTICS = {
    "log_ratio_var": MetricInfo("lower", "Var(log R/T - log q) within a query; 0: exact"),
    "tempered_ratio_var": MetricInfo("lower", "the same on tempered samples; 0: exact"),
    "elbo": MetricInfo("higher", "mean log R/T - log q, a bound on log Z"),
    "log_z": MetricInfo("none", "importance-weighted log Z, a lower bound"),
    "log_z_gap": MetricInfo("lower", "log_z - elbo, a lower bound on KL; 0: exact"),
    "ess_fraction": MetricInfo("higher", "effective share of the samples, an upper bound"),
    "diagnostic_log_z_gap": MetricInfo("lower", "log_z_gap of eval.diagnostic_samples each"),
    "diagnostic_ess_fraction": MetricInfo("higher", "ess_fraction of the same samples"),
    # Neither is better: below the alarm, fewer do not mean a better policy.
    "pareto_k_above": MetricInfo("none", "share of queries whose weights mislead, by Pareto k"),
    "pareto_k_unfitted": MetricInfo("none", "share of queries with too few different z for a k"),
}

# Of tasks with a simulation; see evaluation/calibration.py.
CALIBRATION = {
    "jeffreys": MetricInfo("lower", "KL(q||p) + KL(p||q) on simulated queries, unbiased; 0: exact"),
    "jeffreys_low": MetricInfo("none", "its 95 % interval over queries, from"),
    "jeffreys_high": MetricInfo("none", "to"),
    "kl_q_p_low": MetricInfo("lower", "KL(q||p) there is at least"),
    "kl_q_p_high": MetricInfo("lower", "and at most"),
    "kl_p_q_low": MetricInfo("lower", "KL(p||q) there is at least"),
    "kl_p_q_high": MetricInfo("lower", "and at most"),
    "eubo": MetricInfo("none", "mean log R/T - log q of exact draws z*, above log Z"),
    "simulated_elbo": MetricInfo("none", "the same of samples, below log Z"),
    "posterior_rank": MetricInfo("none", "P(R/q of z* is above a sample's); .5: exact, 1: far"),
    "posterior_rank_p": MetricInfo("none", "p-value of a rank so far from .5"),
    "posterior_length": MetricInfo("none", "tokens of z*"),
    "simulated_length": MetricInfo("none", "tokens of samples on the same queries"),
    "simulated_ess": MetricInfo("none", "effective share of the simulated queries; 1: exact draws"),
}


@dataclass(frozen=True)
class TaskSummary:
    """findings: lines for the report. files: plots, for the run directory and MLflow."""

    findings: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def check_prompt_lengths(what: str, queries: Sequence[Query], sampler: SamplerConfig) -> None:
    """Raises UserError for a prompt too long for the sampling engine.

    what: what a query of this task is called, as in "the prompt of story 'x'".
    """
    for query in queries:
        if len(query.prompt_ids) > sampler.max_prompt_tokens:
            raise UserError(
                f"the prompt of {what} {query.query_id!r} has {len(query.prompt_ids)} tokens; "
                f"sampler.max_prompt_tokens allows {sampler.max_prompt_tokens}"
            )


def check_parts(what: str, train: Sequence[object], held_out: Sequence[object], asked: int) -> None:
    """Raises UserError if the data have fewer than eval.queries held out, or none to train on.

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
    """Raises UserError if a task's data are unusable for a run.

    vocab_size: length of the model's logits, as given to `Task.load`.
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
                "another held-out query; queries are told apart by id, so each needs its own"
            )
    if data.support.vocab_size != vocab_size:
        raise UserError(
            f"the support of task {name} covers {data.support.vocab_size} tokens, the model's "
            f"logits {vocab_size}; build its masks with the vocab_size passed to load()"
        )


def _alike(one: Query, other: Query) -> bool:
    names = ("prompt_ids", "context_ids", "answer_ids")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def check_positions(data: TaskData, sampler: SamplerConfig, positions: int | None) -> None:
    """Raises UserError if the model cannot read a query with the longest z.

    positions: the longest text that the model reads, in tokens; None if it does not say.
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
    """A family of posteriors p(z | query). `tasks.base` has defaults to inherit from."""

    name: str

    @property
    def job(self) -> type[JobConfig]:
        """The class of the task's settings."""
        ...

    @property
    def fields(self) -> tuple[str, ...]:
        """The named texts that `query` takes."""
        ...

    def load(self, tokenizer: Any, vocab_size: int) -> TaskData:
        """Reads the data and builds the support.

        vocab_size: length of the model's logits, which may exceed the tokenizer's vocabulary.
        """
        ...

    def support(self, tokenizer: Any, vocab_size: int) -> Support:
        """Returns the support of `load`, to serve a policy without the data."""
        ...

    @property
    def tool(self) -> Tool | None:
        """The tool of `load`, to serve a policy without the data."""
        ...

    def query(self, fields: Mapping[str, str], tokenizer: Any) -> Query:
        """Makes a query from a user's texts; `fields` has one for each name in self.fields."""
        ...

    @property
    def reads_chats(self) -> bool:
        """Whether its prompts may be put into the model's chat template; its notes say so where
        they are not."""
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
        """Returns the answer in a sample; None if this one has none.

        Raises UserError if z of this task never gives an answer.
        """
        ...

    def query_metrics(self, samples: Sequence[QueryTexts]) -> list[dict[str, float]]:
        """Returns the task's own metrics, one entry per held-out query; a run reports their means.

        It also stores each query's, for comparisons between runs.
        """
        ...

    def sample_metrics(self, samples: Sequence[QueryTexts]) -> dict[str, float]:
        """Returns metrics of all held-out queries together that are not a mean over queries."""
        ...

    def context_text(self, query: Query) -> tuple[str, str]:
        """Returns the texts shown before and after a sample of this query."""
        ...

    def summarize(
        self,
        before: Evaluation,
        after: Evaluation,
        directory: Path,
        baselines: Mapping[str, Baseline],
    ) -> TaskSummary:
        """Returns the task's own findings and plots of a run; writes files into the directory.

        baselines: one entry for each of the task's decoders and classifiers, by name.
        """
        ...

    @property
    def metrics(self) -> dict[str, MetricInfo]:
        """Every metric of summary.json, in display order."""
        ...
