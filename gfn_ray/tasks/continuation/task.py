"""Sentence continuation: sample the next sentence of a prompt, likely and diverse at once.

Target: p(z | x) in proportion to p(z . | x)^(1/T) under the frozen LM, with z a sentence and
"." its full stop. Source: Hu et al. 2024, section 4.1. The policy is compared with other decoders
of the same LM by log-likelihood and diversity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gfn_ray.data.files import folded
from gfn_ray.decoding.decoder import Decoder, searching_decoders
from gfn_ray.errors import UserError
from gfn_ray.evaluation.plots.diversity_plot import Mark, draw_diversity
from gfn_ray.evaluation.result import Baseline, Evaluation, QueryTexts
from gfn_ray.evaluation.text_metrics.text import distinct_fraction
from gfn_ray.models.sentence_encoder import SentenceEncoder, mean_pairwise_distance
from gfn_ray.models.tokenization import checked_continuation_ids, text_ids
from gfn_ray.rewards.likelihood import LikelihoodReward
from gfn_ray.support import BoundedSupport
from gfn_ray.tasks.base import BaseTask
from gfn_ray.tasks.continuation.config import ContinuationJob
from gfn_ray.tasks.continuation.data import Prompt, load_prompts
from gfn_ray.tasks.continuation.simulation import SentenceSimulation
from gfn_ray.tasks.length_limit import LengthLimit
from gfn_ray.tasks.sentence_support import sentence_support
from gfn_ray.tasks.task import (
    CALIBRATION,
    DIAGNOSTICS,
    MetricInfo,
    TaskData,
    TaskSummary,
    check_parts,
)
from gfn_ray.tasks.vocabulary import Vocabulary
from gfn_ray.trajectory import IntArray, Query

FULL_STOP = "."
NO_CUT = "a text cannot be cut between sentences"


class ContinuationTask(BaseTask[ContinuationJob]):
    """z is the sentence after the prompt, as " text" without its full stop."""

    name = "continuation"
    job = ContinuationJob
    fields = ("prompt",)

    def load(self, tokenizer: Any, vocab_size: int) -> TaskData:
        config, asked = self._config, self._config.eval.queries
        prompts = load_prompts(config.data)
        room = LengthLimit.of_prompts("text", config.sampler, config.data.too_long)
        train = room.fitting(self._query(one, tokenizer) for one in prompts.train)
        held_out = room.fitting((self._query(one, tokenizer) for one in prompts.held_out), asked)
        with room.blamed():
            check_parts("prompts", train, held_out, asked)
        _ = self._encoder  # fail now rather than at the first evaluation
        support = self.support(tokenizer, vocab_size)
        return TaskData(
            train,
            held_out,
            support,
            LikelihoodReward(self._config.reward.tokens_per_forward),
            simulation=SentenceSimulation(support),
            decoders=self._decoders(),
            notes=(*prompts.notes, *room.notes),
        )

    def support(self, tokenizer: Any, vocab_size: int) -> BoundedSupport:
        task = self._config.task
        return sentence_support(Vocabulary(tokenizer, vocab_size), task.min_len, task.max_len)

    def query(self, fields: Mapping[str, str], tokenizer: Any) -> Query:
        return self._query(Prompt(self.name, folded(fields["prompt"], "prompt")), tokenizer)

    def query_metrics(self, samples: Sequence[QueryTexts]) -> list[dict[str, float]]:
        vectors = self._encoder.embed([text.strip() for one in samples for text in one.texts])
        ends = np.cumsum([len(one.texts) for one in samples])[:-1]
        found = []
        for one, of_query in zip(samples, np.split(vectors, ends), strict=True):
            log_p = [t.final_log_reward for t in one.trajectories]
            found.append(
                {
                    "log_p_mean": float(np.mean(log_p)),
                    "log_p_max": float(np.max(log_p)),
                    "diversity": mean_pairwise_distance(of_query),
                    "length_mean": float(np.mean([len(t) for t in one.trajectories])),
                    "distinct_fraction": distinct_fraction(one.texts),
                    "stopped_fraction": float(np.mean([t.stopped for t in one.trajectories])),
                }
            )
        return found

    def context_text(self, query: Query) -> tuple[str, str]:
        return query.texts["prompt"], ""

    def summarize(
        self,
        before: Evaluation,
        after: Evaluation,
        directory: Path,
        baselines: Mapping[str, Baseline],
    ) -> TaskSummary:
        marks = [
            *(Mark.of(name, one.metrics, "decoder") for name, one in baselines.items()),
            Mark.of("sampling", before.metrics, "before"),
            Mark.of("GFlowNet", after.metrics, "after"),
        ]
        by_label = {mark.label: index for index, mark in enumerate(marks)}
        names = [_tempered(t) for t in sorted(self._config.task.temperatures)]
        tempered = [by_label[name] for name in (*names, "sampling") if name in by_label]
        prompts, samples = self._config.eval.queries, self._config.eval.samples
        files = draw_diversity(
            directory / "plane",
            marks,
            f"Likelihood and diversity of the next sentence, {self._config.model.name}",
            f"{samples} samples for each of {prompts} held-out prompts; up and to the right is "
            f"better. GFlowNet at reward temperature {self._config.reward.temperature_end:g}; all "
            "others decode the frozen model under the same support.",
            [tempered],
        )
        return TaskSummary(files=files)

    @property
    def metrics(self) -> dict[str, MetricInfo]:
        return {
            "log_p_mean": MetricInfo("higher", "log p(z . | prompt), mean over the samples"),
            "log_p_max": MetricInfo("higher", "log p(z . | prompt) of a prompt's likeliest sample"),
            "diversity": MetricInfo("higher", "mean 1 - cosine of two samples' embeddings"),
            "length_mean": MetricInfo("none", "tokens of z"),
            "distinct_fraction": MetricInfo("higher", "different texts among a prompt's samples"),
            "stopped_fraction": MetricInfo("higher", "samples that stop before max_len"),
            **DIAGNOSTICS,
            **CALIBRATION,
        }

    @cached_property
    def _encoder(self) -> SentenceEncoder:
        return SentenceEncoder(self._config.encoder.name)

    def _decoders(self) -> list[Decoder]:
        task, samples = self._config.task, self._config.eval.samples
        of_kind = {
            "tempered": [Decoder(_tempered(t), "sample", temperature=t) for t in task.temperatures],
            "nucleus": [Decoder(f"nucleus {task.nucleus:g}", "sample", top_p=task.nucleus)],
            "beam": [Decoder("beam", "beam")],
            "diverse_beam": [
                Decoder(
                    "diverse beam",
                    "beam",
                    groups=task.diverse_groups or samples,
                    diversity_penalty=task.diversity_penalty,
                )
            ],
            "greedy": [Decoder("greedy", "greedy")],
            **searching_decoders(self._config.eval.candidates),
        }
        return [one for kind in task.baselines or () for one in of_kind[kind]]

    def _query(self, prompt: Prompt, tokenizer: Any) -> Query:
        prompt_ids = text_ids(tokenizer, prompt.text)
        texts = {"prompt": prompt.text}
        demonstrations: tuple[IntArray, ...] = ()
        stop = checked_continuation_ids(tokenizer, f"{prompt.text} word", FULL_STOP, NO_CUT)
        if len(stop) != 1:
            raise UserError(
                "the tokenizer of model.name writes a full stop in several tokens; choose "
                "another model.name"
            )
        if prompt.following:
            texts["reference"] = prompt.following
            z = " " + prompt.following.removesuffix(FULL_STOP)
            demonstrations = (checked_continuation_ids(tokenizer, prompt.text, z, NO_CUT),)
        return Query(prompt.prompt_id, prompt_ids, prompt_ids, stop, demonstrations, texts)


def _tempered(temperature: float) -> str:
    return f"tempered {temperature:g}"
