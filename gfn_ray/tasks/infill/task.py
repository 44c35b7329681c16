"""Story infilling: sample the missing fourth sentence of a five-sentence story.

Target: p(z | beginning, ending) in proportion to p(z ending | beginning) under the
frozen LM, in natural story order. Source: Hu et al. 2024, section 4.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from gfn_ray.data.files import folded
from gfn_ray.data.stories import Story, load_splits
from gfn_ray.errors import UserError
from gfn_ray.evaluation.result import QueryTexts
from gfn_ray.evaluation.text_metrics.bert_score import bert_score
from gfn_ray.evaluation.text_metrics.bleu import bleu4, gleu4
from gfn_ray.evaluation.text_metrics.text import is_copy
from gfn_ray.formatting import count
from gfn_ray.models.sentence_encoder import SentenceEncoder
from gfn_ray.models.tokenization import checked_continuation_ids, text_ids
from gfn_ray.rewards.adjusted import AdjustedReward, Term
from gfn_ray.rewards.length_prior import LengthPrior
from gfn_ray.rewards.likelihood import LikelihoodReward
from gfn_ray.rewards.reward import Reward
from gfn_ray.rewards.verifier import Verifier
from gfn_ray.support import BoundedSupport, Support
from gfn_ray.tasks.base import BaseTask
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tasks.infill.simulation import (
    LONGEST_ENDING,
    SHORTEST_ENDING,
    StorySimulation,
)
from gfn_ray.tasks.infill.story_texts import BaseTexts, story_texts
from gfn_ray.tasks.infill.target import CopyPenalty
from gfn_ray.tasks.length_limit import LengthLimit
from gfn_ray.tasks.line_support import line_support
from gfn_ray.tasks.task import (
    CALIBRATION,
    DIAGNOSTICS,
    MetricInfo,
    TaskData,
    check_parts,
)
from gfn_ray.tasks.vocabulary import Vocabulary
from gfn_ray.trajectory import IntArray, Query

NO_CUT = "a story cannot be cut between sentences"


class InfillTask(BaseTask[InfillJob]):
    """Sentences 1-3 and 5 are given; z is the fourth, as " text" with its leading space."""

    name = "infill"
    job = InfillJob
    fields = ("beginning", "ending")

    def load(self, tokenizer: Any, vocab_size: int) -> TaskData:
        config, asked = self._config, self._config.eval.queries
        splits = load_splits(config.data)
        room = LengthLimit.of_prompts("story", config.sampler, config.data.too_long)
        train = room.fitting(self._query(story, tokenizer) for story in splits.train)
        held_out = room.fitting((self._query(story, tokenizer) for story in splits.test), asked)
        with room.blamed():
            check_parts("stories", train, held_out, asked)
        _ = self._encoder  # fail now rather than at the first evaluation
        vocabulary, prior = Vocabulary(tokenizer, vocab_size), self._length_prior(train)
        support = self._support(vocabulary)
        return TaskData(
            train,
            held_out,
            support,
            self._reward(tokenizer, prior),
            simulation=StorySimulation(
                support,
                line_support(vocabulary, SHORTEST_ENDING, LONGEST_ENDING, "ending"),
                prior,
                self._copy_penalty,
                config.task.template,
                config.sampler.max_prompt_tokens,
                tokenizer,
            ),
            notes=(*splits.notes, *room.notes),
        )

    def base_texts(self, tokenizer: Any, positions: int | None) -> BaseTexts:
        return story_texts(self._config.data, tokenizer, positions)

    def metrics_of(self, one: QueryTexts) -> dict[str, float]:
        given, true = one.query.texts["given"].split("\n"), one.query.texts["reference"]
        texts = [text.strip() for text in one.texts]
        true_tokens, *tokens = self._encoder.token_embeddings([true, *texts])
        return {
            **super().metrics_of(one),
            "bert_score": float(np.mean([bert_score(each, true_tokens).f1 for each in tokens])),
            "bleu4": float(np.mean([bleu4(text, true) for text in texts])),
            "gleu4": float(np.mean([gleu4(text, true) for text in texts])),
            "copy_fraction": float(np.mean([is_copy(text, given) for text in one.texts])),
        }

    def context_text(self, query: Query) -> tuple[str, str]:
        return query.texts["beginning"], query.texts["ending"]

    @property
    def metrics(self) -> dict[str, MetricInfo]:
        return {
            **DIAGNOSTICS,
            **CALIBRATION,
            "log_reward_mean": MetricInfo("higher", self._target_in_words()),
            "log_pf_reference": MetricInfo("higher", "log q of the true middle sentence"),
            "log_pf_reference_per_token": MetricInfo(
                "higher", "the same per token, including the stop"
            ),
            "bert_score": MetricInfo("higher", f"BERTScore F1 ({self._config.encoder.name})"),
            "bleu4": MetricInfo("higher", "sentence BLEU-4 against the true middle"),
            "gleu4": MetricInfo("higher", "sentence GLEU-4 against the true middle"),
            "stopped_fraction": MetricInfo("higher", "samples that stop before max_len"),
            "distinct_fraction": MetricInfo("higher", "different texts among a story's samples"),
            "copy_fraction": MetricInfo("lower", "near-copies of a given sentence"),
            "length_mean": MetricInfo("none", "tokens of z"),
        }

    def query(self, fields: Mapping[str, str], tokenizer: Any) -> Query:
        beginning, ending = (folded(fields[name], name) for name in self.fields)
        return Query(
            query_id=self.name,
            prompt_ids=self._prompt_ids(beginning, ending, tokenizer),
            context_ids=text_ids(tokenizer, beginning),
            answer_ids=checked_continuation_ids(tokenizer, beginning, " " + ending, NO_CUT),
            texts={"beginning": beginning, "ending": ending, "given": f"{beginning}\n{ending}"},
        )

    def _target_in_words(self) -> str:
        task = self._config.task
        terms = [" - copy penalty"] if task.copy_penalty else []
        terms += [" + length prior"] if task.length_prior != "none" else []
        return f"log p(z ending | beginning), frozen LM{''.join(terms)}"

    @cached_property
    def _encoder(self) -> SentenceEncoder:
        return SentenceEncoder(self._config.encoder.name)

    @property
    def _copy_penalty(self) -> CopyPenalty | None:
        nats = self._config.task.copy_penalty
        return CopyPenalty(nats) if nats else None

    def _length_prior(self, train: Sequence[Query]) -> LengthPrior | None:
        if self._config.task.length_prior == "none":
            return None
        lengths = [len(z) for query in train for z in query.demonstrations]
        if len(set(lengths)) < 2:
            raise UserError(
                "task.length_prior training needs true middles of different lengths, and those "
                f"of the {count(len(train), 'training story')} have one length; use none"
            )
        return LengthPrior.of(lengths)

    def _reward(self, tokenizer: Any, prior: LengthPrior | None) -> Reward:
        terms: list[Term] = []
        if (penalty := self._copy_penalty) is not None:
            terms.append(Verifier(penalty, tokenizer))
        if prior is not None:
            terms.append(prior)
        reward = LikelihoodReward(self._config.reward.tokens_per_forward)
        return AdjustedReward(reward, terms) if terms else reward

    def _query(self, story: Story, tokenizer: Any) -> Query:
        beginning, middle, ending = story.sentences[:3], story.sentences[3], story.sentences[4]
        text = " ".join(beginning)
        return Query(
            query_id=story.story_id,
            prompt_ids=self._prompt_ids(text, ending, tokenizer),
            context_ids=text_ids(tokenizer, text),
            answer_ids=checked_continuation_ids(
                tokenizer, f"{text} {middle}", " " + ending, NO_CUT
            ),
            demonstrations=(checked_continuation_ids(tokenizer, text, " " + middle, NO_CUT),),
            texts={
                "beginning": text,
                "ending": ending,
                "reference": middle,
                "given": "\n".join([*beginning, ending]),
            },
        )

    def _prompt_ids(self, beginning: str, ending: str, tokenizer: Any) -> IntArray:
        template = self._config.task.template
        return text_ids(tokenizer, template.format(beginning=beginning, ending=ending))

    def support(self, tokenizer: Any, vocab_size: int) -> Support:
        return self._support(Vocabulary(tokenizer, vocab_size))

    def _support(self, vocabulary: Vocabulary) -> BoundedSupport:
        task = self._config.task
        sentences = task.terminable == "sentence"
        return line_support(vocabulary, task.min_len, task.max_len, "sentence", sentences=sentences)
