"""Packed rewards against one forward pass for each prefix."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from gfn_ray.errors import UserError
from gfn_ray.rewards.likelihood import LikelihoodReward
from gfn_ray.rewards.table import TableReward, table_key
from testing.examples import examples
from testing.makers import (
    make_support,
    make_trajectory,
    random_ids,
    random_query,
    random_trajectories,
)


@pytest.fixture(scope="module")
def model(tiny_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32).eval()


def loaded(model, budget):
    reward = LikelihoodReward(budget)
    reward.load(lambda: model)
    return reward


@torch.no_grad()
def naive_reward(model, query, tokens):
    """log p(z answer | context), in one forward pass over nothing else."""
    ids = torch.tensor([[*query.context_ids, *tokens, *query.answer_ids]]).long()
    if ids.shape[1] == len(query.context_ids):
        return 0.0  # of nothing, which no forward can be asked for
    log_probs = torch.log_softmax(model(ids[:, :-1]).logits[0], dim=-1)
    scored = range(len(query.context_ids), ids.shape[1])
    return sum(float(log_probs[k - 1, ids[0, k]]) for k in scored)


@pytest.mark.parametrize("budget", [64, 4096])
def test_rewards_equal_one_forward_a_prefix(model, budget):
    rng = np.random.default_rng(0)
    support = make_support(vocab_size=model.config.vocab_size)
    queries = [random_query(rng, f"q{i}") for i in range(3)]
    pairs = [(q, t) for q in queries for t in random_trajectories(rng, support, q.query_id, 4)]
    scored = loaded(model, budget).score(pairs)
    for (query, trajectory), result in zip(pairs, scored, strict=True):
        assert np.array_equal(~np.isnan(result.log_reward), trajectory.terminable)
        for t in np.flatnonzero(trajectory.terminable):
            expected = naive_reward(model, query, trajectory.token_ids[:t])
            assert result.log_reward[t] == pytest.approx(expected, abs=1e-3)


def test_demonstrations_are_computed_once_a_forward_and_leave_room_for_more_queries(model):
    rng = np.random.default_rng(4)
    support = make_support(vocab_size=model.config.vocab_size)
    demonstrations = random_ids(rng, 50)
    queries = [random_query(rng, name) for name in "abcd"]
    queries = [
        replace(q, context_ids=np.concatenate([demonstrations, q.context_ids])) for q in queries
    ]
    pairs = [(q, t) for q in queries for t in random_trajectories(rng, support, q.query_id, 2)]
    own = 4 * 7 + sum(len(t) + int(t.terminable.sum()) * 4 for _, t in pairs)
    loaded(model, 4096).score(pairs)  # the first one finds out what the model can do
    passed = []
    hook = model.model.register_forward_pre_hook(
        lambda _, args, kwargs: passed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    scored = loaded(model, 50 + own).score(pairs)
    hook.remove()
    assert len(passed) == 1 and passed[0] <= 50 + own
    for (query, trajectory), result in zip(pairs, scored, strict=True):
        expected = naive_reward(model, query, trajectory.token_ids)
        assert result.final_log_reward == pytest.approx(expected, abs=1e-4)


@examples(20)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=4))
def test_rewards_of_any_size_are_those_of_each_alone_and_of_nothing_they_are_zero(model, sizes):
    """sizes: tokens of each z and of its answer; the context is one token."""
    rng = np.random.default_rng(0)
    support = make_support(min_len=0, vocab_size=model.config.vocab_size)
    pairs = []
    for number, (length, answer) in enumerate(sizes):
        query = replace(
            random_query(rng, f"q{number}"),
            context_ids=random_ids(rng, 1),
            answer_ids=random_ids(rng, answer),
        )
        z = make_trajectory(support, query.query_id, 30 * rng.integers(1, 9, length))
        pairs.append((query, z))
    for (query, z), scored in zip(pairs, loaded(model, 64).score(pairs), strict=True):
        expected = naive_reward(model, query, z.token_ids)
        assert scored.final_log_reward == pytest.approx(expected, abs=1e-4)
        if len(z) + len(query.answer_ids) == 0:
            assert scored.final_log_reward == 0.0


def test_a_query_without_a_context_is_refused_by_its_id(model):
    rng = np.random.default_rng(3)
    support = make_support(vocab_size=model.config.vocab_size)
    query = replace(random_query(rng, "alone"), context_ids=np.zeros(0, dtype=np.int32))
    pairs = [(query, t) for t in random_trajectories(rng, support, "alone", 2)]
    with pytest.raises(UserError, match=r"query 'alone' has no context_ids"):
        loaded(model, 64).score(pairs)


def test_order_and_company_do_not_change_a_reward(model):
    rng = np.random.default_rng(1)
    support = make_support(vocab_size=model.config.vocab_size)
    query = random_query(rng, "q")
    pairs = [(query, t) for t in random_trajectories(rng, support, "q", 6)]
    reward = loaded(model, 4096)
    forward = [t.final_log_reward for t in reward.score(pairs)]
    backward = [t.final_log_reward for t in reward.score(pairs[::-1])][::-1]
    alone = [reward.score([pair])[0].final_log_reward for pair in pairs]
    assert np.allclose(forward, backward, atol=1e-4)
    assert np.allclose(forward, alone, atol=1e-4)


def test_a_floor_on_top_of_a_prior_is_a_floor_whatever_the_prior_gives():
    support = make_support(min_len=1)
    listed, liked = np.array([12, 15], dtype=np.int32), np.array([12, 15, 18], dtype=np.int32)
    prior = TableReward({table_key(liked): 9.0}, floor=-3.0)
    reward = TableReward({table_key(listed): -1.5}, floor=-2.0, prior=prior)
    query = random_query(np.random.default_rng(0), "q")
    (scored,) = reward.score([(query, make_trajectory(support, "q", liked))])
    assert scored.log_reward[2:].tolist() == [-1.5, -2.0]


def test_a_table_gives_listed_texts_their_reward_and_every_other_prefix_the_floor():
    support = make_support(min_len=1)
    listed = np.array([12, 15], dtype=np.int32)
    reward = TableReward({table_key(listed): -1.5}, floor=-20.0)
    reward.load(lambda: pytest.fail("a table needs no model"))
    query = random_query(np.random.default_rng(0), "q")
    longer = make_trajectory(support, "q", np.array([12, 15, 18], dtype=np.int32))
    (scored,) = reward.score([(query, longer)])
    expected = np.where(longer.terminable, [-20.0, -20.0, -1.5, -20.0], np.nan)
    assert np.array_equal(scored.log_reward, expected, equal_nan=True)


def test_a_table_is_a_function_of_the_tokens_whatever_their_integer_type():
    wide, narrow = (np.array([3, 4], dtype=kind) for kind in (np.int64, np.int32))
    assert table_key(wide) == table_key(narrow)


@pytest.mark.parametrize("floor", [-np.inf, np.nan, -1.0])
def test_a_floor_that_is_not_below_every_listed_reward_is_refused(floor):
    with pytest.raises(ValueError, match="floor"):
        TableReward({b"": -2.0}, floor)


def test_a_prior_lifts_the_floor_by_its_own_log_reward_and_leaves_the_table_alone(model):
    rng = np.random.default_rng(3)
    support = make_support(min_len=1, vocab_size=model.config.vocab_size)
    query = random_query(rng, "q")
    trajectories = random_trajectories(rng, support, "q", 4)
    listed = trajectories[0].token_ids
    reward = TableReward({table_key(listed): -0.5}, -5.0, LikelihoodReward(1024))
    reward.load(lambda: model)
    scored = reward.score([(query, t) for t in trajectories])
    assert scored[0].final_log_reward == pytest.approx(-0.5)
    for trajectory in scored[1:]:
        expected = -5.0 + naive_reward(model, query, trajectory.token_ids)
        assert trajectory.final_log_reward == pytest.approx(expected, abs=1e-3)
