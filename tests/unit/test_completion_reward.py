"""log R of whole completions, against the frozen LM's own numbers."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gfn_ray.rewards.completion import CompletionReward
from gfn_ray.rewards.functions.given import GivenFunction
from gfn_ray.rewards.functions.judge import Judge, Row
from gfn_ray.rewards.length_prior import LengthPrior
from gfn_ray.rewards.reward import LOG_P_REF, REWARD
from gfn_ray.support import WholeSupport
from gfn_ray.support.whole import pieces_of
from gfn_ray.tasks.demonstrations import demonstration_trajectory
from gfn_ray.tasks.prompts.rewards import completion_text
from gfn_ray.tasks.vocabulary import Vocabulary
from gfn_ray.trajectory import Query

STOPS = ("\n",)
BETA = 0.5


@pytest.fixture(scope="module")
def model(tiny_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_dir).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


@pytest.fixture(scope="module")
def query(tokenizer):
    ids = np.array(tokenizer("She went home and")["input_ids"], dtype=np.int32)
    return Query("row-1", ids, ids, np.array([tokenizer.eos_token_id], dtype=np.int32))


def support_of(tokenizer, max_len):
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    ends = np.array([tokenizer.eos_token_id], dtype=np.int32)
    pieces = pieces_of(vocabulary.texts, STOPS)
    return WholeSupport(vocabulary.writable, ends, max_len, STOPS, pieces)


def seen(completions, **kwargs):
    """The length of what the function sees; it fails on an x."""
    if any("x" in text for text in completions):
        raise ValueError("no x")
    return [float(len(text)) for text in completions]


def reward_of(tokenizer, support, model, **settings):
    reward = CompletionReward(
        {"row-1": Row("line 1", "She went home and", {})},
        Judge([GivenFunction(seen, 60.0)], [1.0]),
        support,
        lambda ids: completion_text(tokenizer, STOPS, ids),
        beta=BETA,
        tokens_per_forward=1024,
        **{"prior": 1.0, **settings},
    )
    reward.load(lambda: model)
    return reward


def log_p(model, query, tokens):
    """log p(tokens | context), one forward pass of the text as it is."""
    ids = torch.tensor([[*query.context_ids.tolist(), *tokens]])
    with torch.no_grad():
        rows = model(ids).logits[0].log_softmax(-1)
    first = len(query.context_ids) - 1
    return sum(float(rows[first + i, token]) for i, token in enumerate(tokens))


def scored(reward, support, query, *zs):
    return reward.score(
        [(query, demonstration_trajectory("row-1", np.array(z), support)) for z in zs]
    )


@pytest.fixture(scope="module")
def spelled(tokenizer):
    return lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]


def test_log_r_is_the_models_log_p_with_its_end_plus_the_reward_over_beta(
    tokenizer, model, query, spelled
):
    support = support_of(tokenizer, 8)
    reward = reward_of(tokenizer, support, model)
    ended, stopped = spelled(" slept"), spelled(" slept\n")
    longest = spelled(" he was there with us and they went home")[:8]
    assert len(longest) == 8
    found = scored(reward, support, query, ended, stopped, longest)
    eos = tokenizer.eos_token_id
    shown = [" slept", " slept", tokenizer.decode(longest)]
    for one, tokens, text in zip(found, ([*ended, eos], stopped, longest), shown, strict=True):
        expected = log_p(model, query, tokens) + len(text) / BETA
        assert one.final_log_reward == pytest.approx(expected, abs=1e-3)
        assert np.isnan(one.log_reward[:-1]).all()


def test_what_the_model_writes_under_the_support_has_all_of_its_mass(tokenizer, model, query):
    """Of one token: cut off there, none has an end to be scored, and all sum up to 1 but for the
    special tokens."""
    support = support_of(tokenizer, 1)
    reward = reward_of(tokenizer, support, model)
    pairs = [
        (query, demonstration_trajectory("row-1", np.array([token]), support))
        for token in np.flatnonzero(support.content)
    ]
    mass = np.exp(reward.log_prior(pairs)).sum()
    special = sum(
        np.exp(log_p(model, query, [token])) for token in np.flatnonzero(~support.content)
    )
    assert mass == pytest.approx(1 - special, abs=1e-5)


def test_without_a_prior_no_model_is_loaded_and_the_reward_stands_alone(tokenizer, query, spelled):
    support = support_of(tokenizer, 8)
    reward = reward_of(tokenizer, support, None, prior=0.0)
    reward.load(lambda: pytest.fail("a model was loaded"))
    (one,) = scored(reward, support, query, spelled(" slept"))
    assert one.final_log_reward == pytest.approx(len(" slept") / BETA)
    assert set(reward.parts) == {REWARD}


def test_the_floor_and_the_length_are_terms_of_what_a_z_is_worth(tokenizer, model, query, spelled):
    support = support_of(tokenizer, 8)
    z = spelled(" slept")
    trajectory = demonstration_trajectory("row-1", np.array(z), support)
    prior = LengthPrior(4.0, 2.0)
    reward = reward_of(tokenizer, support, model, floor=-3.0, length=prior)
    term = float(prior(query, trajectory)[-1])
    assert reward.worth(query, trajectory, -100.0) == pytest.approx(-3.0 + term)
    assert reward.worth(query, trajectory, 1.0) == pytest.approx(1.0 / BETA + term)
    (one,) = reward.score([(query, trajectory)])
    base = log_p(model, query, [*z, tokenizer.eos_token_id])
    assert one.final_log_reward - reward.worth(query, trajectory, 6.0) == pytest.approx(
        base, abs=1e-3
    )


def test_the_parts_of_log_r_are_those_of_the_latest_score(tokenizer, model, query, spelled):
    support = support_of(tokenizer, 8)
    reward = reward_of(tokenizer, support, model, prior=2.0)
    scored(reward, support, query, spelled(" was"))
    found = scored(reward, support, query, spelled(" slept"), spelled(" went"))
    assert reward.parts[REWARD].tolist() == [6.0, 5.0]
    summed = 2.0 * reward.parts[LOG_P_REF] + reward.parts[REWARD] / BETA
    assert summed == pytest.approx([one.final_log_reward for one in found], abs=1e-3)


def test_a_z_that_the_function_fails_on_has_no_log_r_and_a_reason(tokenizer, model, query, spelled):
    support = support_of(tokenizer, 8)
    reward = reward_of(tokenizer, support, model)
    good, bad = scored(reward, support, query, spelled(" slept"), spelled(" x"))
    assert good.reward_fault is None and bad.reward_fault == "log R is nan"
    assert reward.faults == {1: "the reward seen failed on line 1: ValueError: no x"}
    scored(reward, support, query, spelled(" slept"))
    assert reward.faults == {}
