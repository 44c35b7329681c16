"""A verifier on top of another reward."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from gfn_ray.errors import UserError
from gfn_ray.rewards.table import TableReward
from gfn_ray.rewards.verifier import VerifierReward
from testing.makers import make_support, make_trajectory, random_query, random_trajectories

FLOOR = -7.0


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


@pytest.fixture
def pairs(tokenizer):
    rng = np.random.default_rng(0)
    support = make_support(vocab_size=len(tokenizer))
    queries = [random_query(rng, f"q{i}") for i in range(2)]
    return [(q, t) for q in queries for t in random_trajectories(rng, support, q.query_id, 3)]


def reward_of(log_weight, tokenizer):
    return VerifierReward(TableReward({}, FLOOR), log_weight, tokenizer)


def test_every_terminable_prefix_gets_the_weight_of_its_own_text(pairs, tokenizer):
    def log_weight(query, text):
        return 0.5 * len(text) - 3.0 * (query.query_id == "q1")

    scored = reward_of(log_weight, tokenizer).score(pairs)
    for (query, trajectory), result in zip(pairs, scored, strict=True):
        assert np.array_equal(~np.isnan(result.log_reward), trajectory.terminable)
        for t in np.flatnonzero(trajectory.terminable):
            text = tokenizer.decode(trajectory.token_ids[:t])
            expected = FLOOR + log_weight(query, text)
            assert result.log_reward[t] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("weight", [float("-inf"), float("nan")])
def test_a_weight_that_is_not_finite_is_the_fault_of_its_trajectory_alone(pairs, tokenizer, weight):
    def never(query, text):
        return weight if query.query_id == "q1" else 0.0

    for one in reward_of(never, tokenizer).score(pairs):
        assert one.reward_fault == (f"log R is {weight}" if one.query_id == "q1" else None)


def test_a_verifier_that_gives_no_number_is_named_with_the_text(pairs, tokenizer):
    with pytest.raises(UserError, match=r"the verifier .* failed on the text .*TypeError"):
        reward_of(lambda query, text: None, tokenizer).score(pairs)


def test_a_verifier_that_fails_is_named_with_the_text(pairs, tokenizer):
    def broken(query, text):
        return 1 / 0

    with pytest.raises(UserError, match=r"broken failed on the text .*ZeroDivisionError"):
        reward_of(broken, tokenizer).score(pairs)


def test_the_empty_text_is_weighed_where_it_may_stop(tokenizer):
    support = make_support(min_len=0, vocab_size=len(tokenizer))
    query = random_query(np.random.default_rng(0), "q")
    empty = make_trajectory(support, "q", np.zeros(0, dtype=np.int32))
    (scored,) = reward_of(lambda query, text: -len(text) - 1.0, tokenizer).score([(query, empty)])
    assert scored.final_log_reward == FLOOR - 1.0
