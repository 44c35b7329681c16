"""Terms added to the infilling target: where they bite, and that they stay finite."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from gfn_ray.models.tokenization import continuation_ids
from gfn_ray.rewards.adjusted import AdjustedReward
from gfn_ray.rewards.length_prior import LengthPrior
from gfn_ray.rewards.likelihood import LikelihoodReward
from gfn_ray.rewards.verifier import Verifier
from gfn_ray.tasks.demonstrations import demonstration_trajectory
from gfn_ray.tasks.infill.config import InfillConfig, InfillJob
from gfn_ray.tasks.infill.target import CopyPenalty
from gfn_ray.tasks.infill.task import InfillTask
from testing.makers import make_support, make_trajectory, random_query


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


@pytest.fixture(scope="module")
def penalty(tokenizer):
    return Verifier(CopyPenalty(7.0), tokenizer)


def load(tokenizer, **task):
    job = InfillJob(task=InfillConfig(max_len=60, terminable="every", **task))
    return InfillTask(job).load(tokenizer, len(tokenizer))


@pytest.fixture(scope="module")
def data(tokenizer):
    return load(tokenizer)


class FlatReward:
    """-10 at every terminable prefix, without a model."""

    def load(self, load_model):
        pass

    def score(self, pairs):
        return [
            trajectory.scored(np.where(trajectory.terminable, -10.0, np.nan))
            for _, trajectory in pairs
        ]


def written(data, tokenizer, text):
    """The first held-out query, and this text as its z."""
    query = data.held_out[0]
    tokens = continuation_ids(tokenizer, query.texts["beginning"], " " + text)
    return query, demonstration_trajectory(query.query_id, tokens, data.support)


def test_a_copy_is_penalised_at_the_very_prefixes_that_read_as_one(data, tokenizer, penalty):
    sentence = data.held_out[0].texts["given"].split("\n")[0]
    query, copy = written(data, tokenizer, sentence + " And then he went home with all of them.")
    values = penalty(query, copy)
    ends = [
        t for t in range(len(copy) + 1) if tokenizer.decode(copy.token_ids[:t]) == f" {sentence}"
    ]
    assert values[ends].tolist() == [-7.0]
    assert values[1] == values[-1] == 0
    assert set(values.tolist()) == {0.0, -7.0}


def test_a_text_of_its_own_is_not_penalised(data, tokenizer, penalty):
    pair = written(data, tokenizer, data.held_out[0].texts["reference"])
    assert not penalty(*pair).any()


@given(st.lists(st.integers(4, 20), min_size=2, max_size=9).filter(lambda n: len(set(n)) > 1))
def test_the_length_prior_is_the_normal_density_of_the_training_lengths(lengths):
    prior = LengthPrior.of(lengths)
    expected = [
        -((t - np.mean(lengths)) ** 2) / (2 * np.var(lengths, ddof=1))
        - 0.5 * math.log(2 * math.pi * np.var(lengths, ddof=1))
        for t in range(4)
    ]
    three = make_trajectory(make_support(), "q", np.full(3, 12, dtype=np.int32))
    assert np.allclose(prior(random_query(np.random.default_rng(0), "q"), three), expected)


def test_terms_add_up_at_terminable_prefixes_and_leave_the_others_alone(data, tokenizer, penalty):
    sentence = data.held_out[0].texts["given"].split("\n")[0]
    pair = written(data, tokenizer, sentence)
    prior = LengthPrior(10.0, 2.0)
    (found,) = AdjustedReward(FlatReward(), [penalty, prior]).score([pair])
    terminable = pair[1].terminable
    expected = -10.0 + penalty(*pair) + prior(*pair)
    assert np.allclose(found.log_reward[terminable], expected[terminable], atol=1e-5)
    assert np.isnan(found.log_reward[~terminable]).all()
    assert found.final_log_reward < -16


def test_settings_choose_the_terms_and_the_words_for_the_reward(tokenizer, data):
    assert isinstance(data.reward, AdjustedReward)
    meaning = InfillTask(InfillJob()).metrics["log_reward_mean"].meaning
    assert meaning.endswith("frozen LM - copy penalty + length prior")
    none = {"copy_penalty": 0.0, "length_prior": "none"}
    assert isinstance(load(tokenizer, **none).reward, LikelihoodReward)
    meaning = InfillTask(InfillJob(task=InfillConfig(**none))).metrics["log_reward_mean"].meaning
    assert meaning.endswith("frozen LM")
