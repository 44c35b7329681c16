"""Simulated chains against enumeration: what the LM calculated itself and a calculator agrees with
has the law of the posterior p(z y | x) exp(-penalty).

The language is sums of small numbers, each written in one token, and an LM that knows which token
follows which, but cannot calculate.
"""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gfn_ray.decoding.simulation import Verdict
from gfn_ray.rewards.likelihood import LikelihoodReward
from gfn_ray.rewards.verifier import VerifierReward
from gfn_ray.sampling.calculator import Calculator
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.support.characters import lift
from gfn_ray.tasks.arithmetic.answers import AnswerCheck
from gfn_ray.tasks.arithmetic.grammar import ArithmeticGrammar
from gfn_ray.tasks.arithmetic.simulation import ChainDraft, ChainSimulation
from gfn_ray.tasks.demonstrations import demonstration_trajectory
from gfn_ray.trajectory import Query
from testing.tiny_language import (
    CHANCE,
    CONTEXT,
    drawn,
    log_p,
    normalised,
    p_value,
    random_llama,
)

PIECES = ("?", ".", "Q", " a", ":", " 0", " 1", " 2", " + 1 =", " - 1 =", ",")
FULL_STOP, COLON, COMMA = (PIECES.index(piece) for piece in ".:,")
NUMBERS = {5: 0, 6: 1, 7: 2}  # by token
STEPS = {8: 1, 9: -1}  # what is added
SOLUTION, PENALTY, MOST = 1, 1.0, 2
SEEN, KNOWN, BLURRED = 4.0, 3.5, 0.3  # weights of what the LM knows, in and out, and of all else


def value_after(left, step):
    """The token that a calculator writes; None if there is none for its number."""
    total = NUMBERS[left] + STEPS[step]
    return next((token for token, number in NUMBERS.items() if number == total), None)


@pytest.fixture(scope="module")
def model():
    """A random Llama with a dimension for each token, written by the embedding alone, by which its
    head knows what may follow."""
    made, own = random_llama(len(PIECES)), len(PIECES)
    following = {number: [*STEPS, COMMA, FULL_STOP] for number in NUMBERS}
    following |= {8: [6, 7], 9: [5, 6], FULL_STOP: [6, 7]}
    with torch.no_grad():
        made.model.embed_tokens.weight[:, :own] = SEEN * torch.eye(own)
        for layer in made.model.layers:
            for writes in (layer.self_attn.o_proj, layer.mlp.down_proj):
                writes.weight[:own] = 0
        made.lm_head.weight *= BLURRED
        made.lm_head.weight[:, :own] = 0
        for token in range(own):
            made.lm_head.weight[following.get(token, [*NUMBERS]), token] = KNOWN
        made.lm_head.weight[COMMA, :own] *= 1.05  # so that longer chains are not rare
    return made


@pytest.fixture(scope="module")
def tokenizer():
    inner = Tokenizer(models.WordLevel({p: i for i, p in enumerate(PIECES)}, unk_token=PIECES[0]))
    pieces = Regex(r" [+-] 1 =| \d| a|[.:,Q]")
    inner.pre_tokenizer = pre_tokenizers.Split(pieces, behavior="isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False)


@pytest.fixture(scope="module")
def simulation(tokenizer):
    content = ["" if token <= COLON else piece for token, piece in enumerate(PIECES)]
    support = lift(ArithmeticGrammar(MOST, digits=1), content, [FULL_STOP])
    loop = ToolLoop(Calculator(), tokenizer, support)
    return ChainSimulation(support, loop, AnswerCheck(PENALTY), 2, tokenizer)


@pytest.fixture
def query():
    """y is ". 1"."""
    answer = np.array([FULL_STOP, 6], np.int32)
    return Query("one", CONTEXT, CONTEXT, answer, texts={"solution": str(SOLUTION)})


def chains():
    """Every chain of one or two equations with the calculator's values."""
    sums = [(n, s, value_after(n, s)) for n in NUMBERS for s in STEPS]
    right = [one for one in sums if one[2] is not None]
    return [*right, *((*one, COMMA, *other) for one, other in itertools.product(right, right))]


def posterior(model, query):
    texts = {z: (*z, *query.answer_ids.tolist()) for z in chains()}
    known = log_p(model, list(texts.values()))
    penalties = {z: 0.0 if NUMBERS[z[-1]] == SOLUTION else PENALTY for z in texts}
    return normalised({z: known[text] - penalties[z] for z, text in texts.items()})


def counted(found):
    return Counter(tuple(one.token_ids.tolist()) for one in found)


def test_the_enumerated_chains_are_those_that_policy_and_calculator_can_write(simulation, query):
    known = chains()
    assert all(simulation.writes(query, list(z)) for z in known)
    legal = [*NUMBERS, *STEPS, COMMA]
    short = [z for n in (1, 2, 3) for z in itertools.product(legal, repeat=n)]
    written = {z for z in short if simulation.writes(query, list(z))}
    assert written == {z for z in known if len(z) <= 3}


def test_draws_of_chains_have_the_posteriors_law(model, simulation, query):
    found = drawn(model, simulation, query, calls=4)
    assert len(found) > 400
    assert {len(one.token_ids) for one in found} == {3, 7}
    assert p_value(counted(found), posterior(model, query)) > CHANCE


class CalculatorWrites(ChainDraft):
    """Puts the calculator's value wherever the LM wrote another, as the policy's z come about."""

    def take(self, token):
        if self._chain and self._chain[-1] in STEPS:
            right = value_after(*self._chain[-2:])
            token = token if right is None else right
        return super().take(token)


class AnswerAgain(ChainDraft):
    """Tries another answer after the same chain until it is the data's."""

    def take(self, token):
        wrong = self._answered and token != self._answer[self._answered]
        return Verdict.GOES_ON if wrong else super().take(token)


class AnyEnd(ChainDraft):
    """Keeps a chain wherever it ends."""

    def _passes(self):
        self._log_uniform = -np.inf
        return super()._passes()


@pytest.mark.parametrize("wrong", [CalculatorWrites, AnswerAgain, AnyEnd])
def test_wrong_ways_to_draw_chains_are_told_from_it(model, simulation, query, wrong):
    class Wrong(ChainSimulation):
        def draft(self, query, rng):
            return wrong(self, query, rng)

    found = drawn(model, Wrong(**vars(simulation)), query)
    assert p_value(counted(found), posterior(model, query)) < CHANCE**2


def test_log_r_and_the_density_of_the_draws_differ_by_one_constant(
    model, tokenizer, simulation, query
):
    found = drawn(model, simulation, query, calls=1)
    ends = {NUMBERS[int(one.token_ids[-1])] == SOLUTION for one in found}
    assert len(ends) == 2
    reward = VerifierReward(LikelihoodReward(256), AnswerCheck(PENALTY), tokenizer)
    reward.load(lambda: model)
    pairs = [
        (one.query, demonstration_trajectory("one", one.token_ids, simulation.support))
        for one in found
    ]
    log_r = np.array([z.final_log_reward for z in reward.score(pairs)])
    assert np.ptp(log_r - np.array([one.log_density for one in found])) < 1e-4
