"""Simulated queries against enumeration: what the frozen LM wrote and kept has the posterior's law.

The language is small enough to list: a random Llama over eight tokens. Draws are held to it by
chi-square at a fixed seed, and ways of drawing that are wrong are seen to fail the same test.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gfn_ray.decoding.drafting import draft
from gfn_ray.decoding.rows import CachedRows
from gfn_ray.decoding.simulation import Verdict
from gfn_ray.evaluation.text_metrics.text import is_copy
from gfn_ray.rewards.adjusted import AdjustedReward
from gfn_ray.rewards.length_prior import LengthPrior
from gfn_ray.rewards.likelihood import LikelihoodReward
from gfn_ray.rewards.verifier import Verifier
from gfn_ray.seeds import Stream, seed_of
from gfn_ray.support import BoundedSupport
from gfn_ray.tasks.continuation.simulation import SentenceSimulation
from gfn_ray.tasks.demonstrations import demonstration_trajectory
from gfn_ray.tasks.infill.simulation import StoryDraft, StorySimulation
from gfn_ray.tasks.infill.target import CopyPenalty
from gfn_ray.tasks.subjectivity.simulation import RationaleSimulation
from gfn_ray.trajectory import Query
from testing.tiny_language import (
    CHANCE,
    CONTEXT,
    COPIES,
    FULL_STOP,
    STOP,
    WORDS,
    drawn,
    log_p,
    normalised,
    p_value,
    random_llama,
)

CONTENT, ENDERS = (3, 4, 5, 6, 7), (5, 6, 7)


@pytest.fixture(scope="module")
def model():
    return random_llama()


@pytest.fixture(scope="module")
def tokenizer():
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def bounded(max_len, enders=ENDERS):
    content, last = (np.isin(np.arange(len(WORDS)), some) for some in (CONTENT, enders))
    return BoundedSupport(content, content, last, np.array([STOP], np.int32), 1, max_len)


def story(tokenizer, **changes):
    """Middles of one to three tokens, endings of one or two; both close with an ender."""
    plain = StorySimulation(
        bounded(3), bounded(2), None, None, "{ending} {beginning}", 100, tokenizer
    )
    return replace(plain, **changes)


@pytest.fixture
def query():
    texts = {"beginning": "q a b", "given": "b\nx.\nlast"}
    return Query("one", CONTEXT, CONTEXT, np.array([FULL_STOP], np.int32), texts=texts)


def middles():
    texts = [z for n in (1, 2, 3) for z in itertools.product(CONTENT, repeat=n)]
    return [z for z in texts if bounded(3).contains(z)]


def endings():
    """The first ender closes an ending."""
    texts = [y for n in (1, 2) for y in itertools.product(CONTENT, repeat=n)]
    return [y for y in texts if y[-1] in ENDERS and not set(y[:-1]) & set(ENDERS)]


def joint(model, terms=lambda z, y: 0.0):
    """p(z, y | x) in proportion to R(z), for every y, normalised."""
    pairs = [(z, y) for z in middles() for y in endings()]
    known = log_p(model, [z + y for z, y in pairs])
    return normalised({(z, y): known[z + y] + terms(z, y) for z, y in pairs})


def counted(found):
    return Counter((tuple(one.token_ids), tuple(one.query.answer_ids)) for one in found)


def copy_term(z, y):
    middle, ending = (" ".join(WORDS[token] for token in text) for text in (z, y))
    return -1.5 if is_copy(middle, ["b", "x.", ending]) else 0.0


PRIOR = LengthPrior(2.2, 0.7)


@pytest.mark.parametrize(
    ("changes", "terms"),
    [
        ({}, lambda z, y: 0.0),
        ({"length_prior": PRIOR}, lambda z, y: PRIOR.log_density(len(z))),
        ({"penalty": CopyPenalty(1.5)}, copy_term),
    ],
    ids=["t uniform", "t by the length prior", "a penalty by rejection"],
)
def test_draws_of_stories_have_the_posteriors_law(model, tokenizer, query, changes, terms):
    found = drawn(model, story(tokenizer, **changes), query)
    assert len(found) > 1000
    assert p_value(counted(found), joint(model, terms)) > CHANCE


class FirstPrefix(StoryDraft):
    """Takes the first prefix that may stop, whatever length was drawn."""

    def __init__(self, told, query, rng):
        super().__init__(told, query, rng)
        self._length = told.middle.max_len

    def take(self, token):
        if len(self._middle.tokens) < self._length:
            if not self._middle.add(token):
                return Verdict.REJECTED
            if self._middle.may_stop:
                self._length = len(self._middle.tokens)
            return Verdict.GOES_ON
        return super().take(token)


class EndingAgain(StoryDraft):
    """Tries another ending after the same z until one is good."""

    def take(self, token):
        in_ending = len(self._middle.tokens) == self._length
        verdict = super().take(token)
        return Verdict.GOES_ON if in_ending and verdict is Verdict.REJECTED else verdict


class ShortWins(StoryDraft):
    """Prefers short lengths."""

    def __init__(self, told, query, rng):
        super().__init__(told, query, rng)
        self._length = min(self._length, int(rng.integers(1, 4)))


@pytest.mark.parametrize("wrong", [FirstPrefix, EndingAgain, ShortWins])
def test_wrong_ways_to_draw_stories_are_told_from_it(model, tokenizer, query, wrong):
    class Wrong(StorySimulation):
        def draft(self, query, rng):
            return wrong(self, query, rng)

    right = story(tokenizer)
    found = drawn(model, Wrong(**vars(right)), query, calls=1)
    assert p_value(counted(found), joint(model)) < CHANCE**2


def test_draws_under_the_policys_mask_are_told_from_it(model, tokenizer, query):
    """Masked and renormalised, as the policy writes, the LM's words are no draws of its own."""

    class Masked(torch.nn.Module):
        config = model.config

        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, **arguments):
            out = self.inner(**arguments)
            illegal = torch.ones(len(WORDS), dtype=torch.bool)
            illegal[list(CONTENT)] = False
            out.logits = out.logits.masked_fill(illegal, float("-inf"))
            return out

    found = drawn(Masked(), story(tokenizer), query, calls=1)
    assert p_value(counted(found), joint(model)) < CHANCE**2


def test_a_stop_token_inside_z_rejects_the_draft(tokenizer, query):
    rng = np.random.default_rng(0)
    for _ in range(20):
        one = story(tokenizer).draft(query, rng)
        assert one.take(STOP) is Verdict.REJECTED


def test_log_r_and_the_density_of_the_draws_differ_by_one_constant(model, tokenizer, query):
    """Then every z* is exact, whatever the terms: their weights are all the same."""
    penalty = CopyPenalty(1.5)
    simulation = story(tokenizer, length_prior=PRIOR, penalty=penalty)
    found = [
        one
        for one in draft(model, simulation, [query] * 60, COPIES, seed_of(Stream.SIMULATED, 1)).kept
        if one is not None
    ]
    assert len({len(one.token_ids) for one in found}) > 1
    reward = AdjustedReward(LikelihoodReward(256), [PRIOR, Verifier(penalty, tokenizer)])
    reward.load(lambda: model)
    pairs = [
        (one.query, demonstration_trajectory("one", one.token_ids, simulation.middle))
        for one in found
    ]
    log_r = np.array([t.final_log_reward for t in reward.score(pairs)])
    away = log_r - np.array([one.log_density for one in found])
    assert np.ptp(away) < 1e-4


def test_draws_of_sentences_have_the_posteriors_law(model, query):
    support = bounded(3, enders=CONTENT)
    found = drawn(model, SentenceSimulation(support), query)
    assert len(found) > 500
    texts = [z for n in (1, 2, 3) for z in itertools.product(CONTENT, repeat=n)]
    known = log_p(model, [(*z, FULL_STOP) for z in texts])
    counts = Counter(tuple(one.token_ids) for one in found)
    assert p_value(counts, normalised({z: known[(*z, FULL_STOP)] for z in texts})) > CHANCE
    for one in found[:20]:
        assert one.log_density == pytest.approx(known[(*one.token_ids, FULL_STOP)], abs=1e-4)


def test_draws_of_rationales_have_the_law_of_the_prefixes(model, query):
    """What else log R has, the answer, is in their weights."""
    found = drawn(model, RationaleSimulation(bounded(3)), query)
    assert len(found) > 1000
    counts = Counter(tuple(one.token_ids) for one in found)
    known = log_p(model, middles())
    assert p_value(counts, normalised(known)) > CHANCE
    for one in found[:20]:
        assert one.log_density == pytest.approx(known[tuple(one.token_ids)], abs=1e-4)


def test_rows_read_what_a_plain_forward_reads(model):
    prompts = [CONTEXT, np.array([2], np.int32)]
    rows = CachedRows(model, prompts)
    rows.extend([1, 0, 0], [5, 6, 7])
    texts = [[2, 5], [*CONTEXT.tolist(), 6], [*CONTEXT.tolist(), 7]]
    for row, text in enumerate(texts):
        plain = model(torch.tensor([text])).logits[0, -1]
        assert torch.allclose(rows.logits[row], plain, atol=1e-4)
