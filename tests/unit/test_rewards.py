"""Packed rewards against one forward pass for each prefix."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from gfn_ray.rewards.likelihood import LikelihoodReward
from makers import make_support, random_query, random_trajectories


@pytest.fixture(scope="module")
def model(tiny_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32).eval()


@torch.no_grad()
def naive_reward(model, query, tokens):
    """log p(z answer | context), in one forward pass over nothing else."""
    ids = torch.tensor([[*query.context_ids, *tokens, *query.answer_ids]]).long()
    log_probs = torch.log_softmax(model(ids[:, :-1]).logits[0], dim=-1)
    scored = range(len(query.context_ids), ids.shape[1])
    return sum(float(log_probs[k - 1, ids[0, k]]) for k in scored)


@pytest.mark.parametrize("budget", [64, 4096])
def test_rewards_equal_one_forward_a_prefix(model, budget):
    rng = np.random.default_rng(0)
    support = make_support(vocab_size=model.config.vocab_size)
    queries = [random_query(rng, f"q{i}") for i in range(3)]
    pairs = [(q, t) for q in queries for t in random_trajectories(rng, support, q.query_id, 4)]
    scored = LikelihoodReward(model, budget).score(pairs)
    for (query, trajectory), result in zip(pairs, scored, strict=True):
        assert np.array_equal(~np.isnan(result.log_reward), trajectory.terminable)
        for t in np.flatnonzero(trajectory.terminable):
            expected = naive_reward(model, query, trajectory.token_ids[:t])
            assert result.log_reward[t] == pytest.approx(expected, abs=1e-3)


def test_order_and_company_do_not_change_a_reward(model):
    rng = np.random.default_rng(1)
    support = make_support(vocab_size=model.config.vocab_size)
    query = random_query(rng, "q")
    pairs = [(query, t) for t in random_trajectories(rng, support, "q", 6)]
    reward = LikelihoodReward(model, 4096)
    forward = [t.final_log_reward for t in reward.score(pairs)]
    backward = [t.final_log_reward for t in reward.score(pairs[::-1])][::-1]
    alone = [reward.score([pair])[0].final_log_reward for pair in pairs]
    assert np.allclose(forward, backward, atol=1e-4)
    assert np.allclose(forward, alone, atol=1e-4)
