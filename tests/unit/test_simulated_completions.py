"""Simulated completions against enumeration: what the LM wrote and its reward kept has the law of
the posterior p_ref(z | x) exp(r(z) / beta)."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from gfn_ray.decoding.drafting import draft
from gfn_ray.decoding.simulation import Verdict, simulated_id
from gfn_ray.errors import UserError
from gfn_ray.rewards.completion import CompletionReward
from gfn_ray.rewards.functions.builtin import BUILT_IN
from gfn_ray.rewards.functions.judge import Judge, Row
from gfn_ray.rewards.length_prior import LengthPrior
from gfn_ray.seeds import Stream, seed_of
from gfn_ray.support import WholeSupport
from gfn_ray.support.whole import pieces_of
from gfn_ray.tasks.demonstrations import demonstration_trajectory
from gfn_ray.tasks.prompts.simulation import CompletionDraft, CompletionSimulation
from gfn_ray.trajectory import Query
from testing.tiny_language import (
    CHANCE,
    CONTEXT,
    STOP,
    WORDS,
    drawn,
    log_p,
    normalised,
    p_value,
    random_llama,
)

CONTENT, OTHER_STOP, STOPS, MAX_LEN, BETA = (3, 4, 5, 6), 1, ("y.",), 3, 0.5
SUPPORT = WholeSupport(
    np.isin(np.arange(len(WORDS)), CONTENT),
    np.array([STOP, OTHER_STOP], np.int32),
    MAX_LEN,
    STOPS,
    pieces_of(WORDS, STOPS),
)
QUERY = Query("one", CONTEXT, CONTEXT, np.array([STOP], np.int32))
LONG = LengthPrior(2.6, 0.8)


@pytest.fixture(scope="module")
def model():
    return random_llama()


def target(length=None):
    """The share of two words that z has."""
    row = Row("line 1", "q a b", {"words": ["a", "b"]})
    return CompletionReward(
        {"one": row, simulated_id("one"): row},
        Judge([BUILT_IN["contains"]], [1.0]),
        SUPPORT,
        lambda z: " ".join(WORDS[token] for token in z),
        prior=1.0,
        beta=BETA,
        tokens_per_forward=64,
        length=length,
    )


def simulation(length=None, most=1.0):
    made = target(length)
    return CompletionSimulation(SUPPORT, made, made.largest_worth(most), "")


def posterior(model, length=None):
    """By enumeration: z with its end, where neither a stop string nor max_len is the end."""
    texts = [z for n in range(1, MAX_LEN + 1) for z in itertools.product(CONTENT, repeat=n)]
    texts = [z for z in texts if SUPPORT.contains(z)]
    ended = {z: z if SUPPORT.must_stop(z) else (*z, STOP) for z in texts}
    known = log_p(model, list(ended.values()))
    log_r = {}
    for z in texts:
        worth = len({3, 4} & set(z)) / 2 / BETA
        worth += 0.0 if length is None else float(length.log_density(len(z)))
        log_r[z] = known[ended[z]] + worth
    return normalised(log_r)


def counted(found):
    return Counter(tuple(one.token_ids) for one in found)


@pytest.mark.parametrize("length", [None, LONG], ids=["reward", "reward and length"])
def test_draws_of_completions_have_the_posteriors_law(model, length):
    found = drawn(model, simulation(length), QUERY)
    assert len(found) > 500
    assert p_value(counted(found), posterior(model, length)) > CHANCE


def test_completions_kept_whatever_their_reward_are_told_from_it(model):
    class AnyReward(CompletionDraft):
        def _verdict(self):
            return Verdict.KEPT

    class Wrong(CompletionSimulation):
        def draft(self, query, rng):
            return AnyReward(self, query, rng)

    found = drawn(model, Wrong(**vars(simulation())), QUERY, calls=1)
    assert p_value(counted(found), posterior(model)) < CHANCE**2


def test_an_end_that_log_r_does_not_score_rejects_the_draft():
    one = simulation().draft(QUERY, np.random.default_rng(0))
    assert one.take(CONTENT[0]) is Verdict.GOES_ON
    assert one.take(OTHER_STOP) is Verdict.REJECTED


def test_log_r_and_the_density_of_the_draws_differ_by_one_constant(model):
    made = simulation(LONG)
    kept = draft(model, made, [QUERY] * 60, 12, seed_of(Stream.SIMULATED, 1)).kept
    found = [one for one in kept if one is not None]
    assert len({len(one.token_ids) for one in found}) > 1
    reward = made.target
    reward.load(lambda: model)
    pairs = [
        (one.query, demonstration_trajectory(one.query.query_id, one.token_ids, SUPPORT))
        for one in found
    ]
    log_r = np.array([z.final_log_reward for z in reward.score(pairs)])
    assert np.ptp(log_r - np.array([one.log_density for one in found])) < 1e-4


def test_a_reward_above_its_bound_names_the_setting(model):
    with pytest.raises(UserError, match=r"raise task\.reward_max"):
        drawn(model, simulation(most=0.25), QUERY, calls=1)
