"""Haiku: z ~ p_LM(z | prompt) exp(-strictness * syllables off from 5-7-5). python haiku.py"""

import re
import sys
from itertools import zip_longest

import numpy as np
from pydantic import Field

from gfn_ray.cli import main, parse
from gfn_ray.config import JobConfig, Section
from gfn_ray.models.tokenization import continuation_ids, text_ids
from gfn_ray.rewards.likelihood import LikelihoodReward
from gfn_ray.rewards.verifier import VerifierReward
from gfn_ray.runtime.run import run
from gfn_ray.support import BoundedSupport
from gfn_ray.tasks.base import BaseTask
from gfn_ray.tasks.task import MetricInfo, TaskData
from gfn_ray.tasks.vocabulary import Vocabulary
from gfn_ray.trajectory import Query

TOPICS = ("rain", "wind", "dog", "bread", "night", "winter", "road", "letter", "moon", "tea")
PROMPT = """A poem about the sea, in three lines / with slashes between:
waves break on the stones / a gull calls once and is gone / salt dries on my hands.
A poem about {topic}, in three lines / with slashes between:
"""


class HaikuConfig(Section):
    strictness: float = Field(6.0, ge=0, description="Nats per missing or extra syllable.")
    max_len: int = Field(28, ge=3, description="Longest poem, in tokens.")


class HaikuJob(JobConfig):
    """Poems in lines of five, seven and five syllables."""

    task: HaikuConfig = Field(default_factory=HaikuConfig, description="The poem.")


def syllables(word):
    """Counts groups of vowels without a silent e: a rule of thumb."""
    return max(1, len(re.findall("[aeiouy]+", re.sub("e$|(?<![sczxgh])es$", "", word))))


def syllables_off(text):
    """Counts missing and extra syllables over three lines."""
    lines = [re.findall("[a-z]+", line) for line in text.lower().split("/")]
    found = [sum(map(syllables, line)) for line in lines]
    return sum(abs(a - b) for a, b in zip_longest((5, 7, 5), found, fillvalue=0))


class HaikuTask(BaseTask[HaikuJob]):
    name, job, fields = "haiku", HaikuJob, ("topic",)

    def load(self, tokenizer, vocab_size):
        queries = [self.query({"topic": topic}, tokenizer) for topic in TOPICS]
        prior = LikelihoodReward(self._config.reward.tokens_per_forward)
        reward = VerifierReward(prior, self.log_weight, tokenizer)
        return TaskData(queries[:-4], queries[-4:], self.support(tokenizer, vocab_size), reward)

    def log_weight(self, query, text):
        return -self._config.task.strictness * syllables_off(text)

    def support(self, tokenizer, vocab_size):
        vocabulary = Vocabulary(tokenizer, vocab_size)
        words = np.array([bool(re.fullmatch(r" ?([a-z]+|/)", t)) for t in vocabulary.texts])
        stops = vocabulary.full_stops()
        return BoundedSupport(words, words, words, stops, 3, self._config.task.max_len)

    def query(self, fields, tokenizer):
        prompt = text_ids(tokenizer, PROMPT.format(**fields))
        stop = continuation_ids(tokenizer, "word", ".")
        return Query(fields["topic"], prompt, prompt, stop, texts=dict(fields))

    def metrics_of(self, one):
        off = [syllables_off(text) for text in one.texts]
        return {**super().metrics_of(one), "off": np.mean(off), "exact": np.mean(np.equal(off, 0))}

    @property
    def metrics(self):
        off = MetricInfo("lower", "missing or extra syllables")
        return {"exact": MetricInfo("higher", "poems of 5-7-5"), "off": off, **super().metrics}


if __name__ == "__main__":
    sys.exit(main(lambda: run(config := parse(HaikuJob), HaikuTask(config))))
