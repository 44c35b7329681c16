"""Simulated stories: the frozen LM writes the middle sentence and the ending of a real beginning.

log R of infilling scores a prefix of a text, log p(z_1..t ending | beginning), without a
terminator; over t these do not sum to 1. So t is drawn first, uniformly or from the length prior,
and then t tokens are written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gfn_ray.decoding.simulation import InSupport, SimulatedQuery, Verdict, simulated_id
from gfn_ray.models.tokenization import text_ids
from gfn_ray.rewards.length_prior import LengthPrior
from gfn_ray.support import BoundedSupport
from gfn_ray.tasks.infill.target import CopyPenalty
from gfn_ray.trajectory import Query

SHORTEST_ENDING, LONGEST_ENDING = 4, 40
"""Tokens of a simulated ending, which is one sentence."""


@dataclass(frozen=True, eq=False)
class StorySimulation:
    """middle: the support of z. ending: that of y. length_prior, penalty: the target's, if it has
    them. max_prompt_tokens: an ending that makes the prompt longer is rejected."""

    middle: BoundedSupport
    ending: BoundedSupport
    length_prior: LengthPrior | None
    penalty: CopyPenalty | None
    template: str
    max_prompt_tokens: int
    tokenizer: Any

    @property
    def longest(self) -> int:
        return self.middle.max_len + self.ending.max_len

    @property
    def writes_queries(self) -> bool:
        return True

    @property
    def identity(self) -> str:
        lengths = [(s.min_len, s.max_len) for s in (self.middle, self.ending)]
        enders = [int(s.enders.sum()) for s in (self.middle, self.ending)]
        shown = (self.length_prior, self.penalty, self.template, self.max_prompt_tokens)
        return json.dumps([lengths, enders, *map(str, shown)])

    @cached_property
    def log_lengths(self) -> np.ndarray:
        """log p(t), t = 0..max_len, in nats: uniform from min_len on, or the length prior's."""
        t = np.arange(self.middle.max_len + 1)
        weights = (
            np.zeros(len(t)) if self.length_prior is None else self.length_prior.log_density(t)
        )
        weights[: self.middle.min_len] = -np.inf
        normalised: np.ndarray = weights - np.logaddexp.reduce(weights)
        return normalised

    @cached_property
    def lengths(self) -> np.ndarray:
        """p(t), t = 0..max_len."""
        probabilities: np.ndarray = np.exp(self.log_lengths)
        return probabilities / probabilities.sum()

    def draft(self, query: Query, rng: np.random.Generator) -> StoryDraft:
        return StoryDraft(self, query, rng)


class StoryDraft:
    """A middle of a length drawn beforehand, then an ending up to its first sentence end."""

    def __init__(self, story: StorySimulation, query: Query, rng: np.random.Generator) -> None:
        self._story = story
        self._query = query
        self._length = int(rng.choice(len(story.lengths), p=story.lengths))
        self._log_uniform = float(np.log(rng.random()))
        self._middle = InSupport(story.middle)
        self._ending = InSupport(story.ending)
        self._kept: Query | None = None
        self._term = 0.0

    def take(self, token: int) -> Verdict:
        middle, ending = self._middle, self._ending
        if len(middle.tokens) < self._length:
            fits = middle.add(token)
            whole = len(middle.tokens) == self._length
            fits = fits and (middle.may_stop or not whole)
            return Verdict.GOES_ON if fits else Verdict.REJECTED
        if not ending.add(token):
            return Verdict.REJECTED
        if not self._story.ending.enders[token]:
            return Verdict.GOES_ON
        return Verdict.KEPT if ending.may_stop and self._passes() else Verdict.REJECTED

    def _passes(self) -> bool:
        """Whether the whole story is kept: its prompt has room, and its copies are few enough."""
        story, tokenizer = self._story, self._story.tokenizer
        beginning = self._query.texts["beginning"]
        ending = tokenizer.decode(self._ending.tokens).strip()
        middle = tokenizer.decode(self._middle.tokens)
        prompt = text_ids(tokenizer, story.template.format(beginning=beginning, ending=ending))
        sentences = self._query.texts["given"].split("\n")[:-1]
        self._kept = Query(
            query_id=simulated_id(self._query.query_id),
            prompt_ids=prompt,
            context_ids=self._query.context_ids,
            answer_ids=np.array(self._ending.tokens, dtype=np.int32),
            texts={
                "beginning": beginning,
                "ending": ending,
                "reference": middle.strip(),
                "given": "\n".join([*sentences, ending]),
            },
        )
        self._term = 0.0 if story.penalty is None else story.penalty(self._kept, middle)
        return len(prompt) <= story.max_prompt_tokens and self._log_uniform < self._term

    def simulated(self, log_p: float) -> SimulatedQuery:
        assert self._kept is not None  # only a kept draft is asked
        z = np.array(self._middle.tokens, dtype=np.int32)
        log_t = float(self._story.log_lengths[len(z)])
        return SimulatedQuery(self._kept, z, log_p + log_t + self._term)
