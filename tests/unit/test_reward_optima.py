"""What losses on rewards converge to, on a policy that is a table: every z is listed."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.config import JobConfig
from gfn_ray.objectives import choose
from testing.examples import examples
from testing.flow_oracles import random_batch
from testing.table_policy import TablePolicy, total_variation, train

CLOSE = 0.03


def loss_of(**objective):
    return choose(JobConfig(objective=objective).objective).loss


def case(temperature=1.0, **shape):
    """A policy, another one as p_ref, and log R of every z."""
    policy, reference = TablePolicy(seed=1, **shape), TablePolicy(seed=2, **shape)
    generator = torch.Generator().manual_seed(3)
    log_reward = torch.randn(len(policy.texts), generator=generator, dtype=torch.float64)
    return policy, reference, 2 * temperature * log_reward


def optimum(reference, log_reward, temperature, reward):
    tempered = log_reward / temperature
    return tempered if reward == "matched" else tempered + reference.log_q.detach()


@pytest.mark.parametrize(("reward", "temperature"), [("matched", 1.0), ("task", 0.3)])
@pytest.mark.parametrize("kind", ["ppo", "rloo"])
def test_policy_gradients_with_the_kl_in_the_reward_reach_its_optimum(kind, temperature, reward):
    """Two epochs on each batch, so that ratios are not 1."""
    policy, reference, log_reward = case(temperature)
    target = optimum(reference, log_reward, temperature, reward)
    assert total_variation(policy.log_q, target) > 0.3
    train(policy, reference, loss_of(kind=kind, reward=reward), log_reward, temperature, epochs=2)
    assert total_variation(policy.log_q, target) < CLOSE


@pytest.mark.parametrize("reward", ["matched", "task"])
@pytest.mark.parametrize("proposal", ["own", "uniform"])
def test_dpo_on_bradley_terry_pairs_reaches_its_closed_form_from_any_proposal(proposal, reward):
    policy, reference, log_reward = case(temperature=0.5)
    uniform = torch.ones(len(policy.texts), dtype=torch.float64)
    train(
        policy,
        reference,
        loss_of(kind="dpo", reward=reward),
        log_reward,
        0.5,
        proposal=None if proposal == "own" else uniform,
        samples=64,
    )
    assert total_variation(policy.log_q, optimum(reference, log_reward, 0.5, reward)) < CLOSE


def test_dpo_on_the_best_and_the_worst_goes_past_its_reference_to_the_best():
    policy, reference, log_reward = case()
    before = total_variation(policy.log_q, optimum(reference, log_reward, 1.0, "task"))
    train(policy, reference, loss_of(kind="dpo", reward="task", pairs="best_worst"), log_reward)
    probability = policy.log_q.exp()
    assert probability[log_reward.argmax()] > 0.9
    assert total_variation(policy.log_q, optimum(reference, log_reward, 1.0, "task")) > before / 2


@pytest.mark.parametrize("accept_from", [None, 0.5])
def test_likelihood_reaches_the_distribution_of_the_accepted_data(accept_from):
    policy, reference, log_reward = case()
    data = TablePolicy(seed=4).log_q.detach()
    loss = loss_of(kind="mle", accept_from=accept_from)
    train(policy, reference, loss, log_reward, proposal=data.exp())
    if accept_from is not None:
        data = torch.where(log_reward >= accept_from, data, -torch.inf)
        assert (log_reward < accept_from).sum() > 3
    assert total_variation(policy.log_q, data) < CLOSE


def test_grpo_ends_at_the_optimum_of_beta_times_the_standard_deviation_of_the_reward():
    """For z of one token."""
    beta = 0.5
    policy, reference, log_reward = case(tokens=6, longest=1)
    train(policy, reference, loss_of(kind="grpo", reward="task"), log_reward, beta, samples=1024)
    q = policy.log_q.detach()
    mean = (q.exp() * log_reward).sum()
    spread = (q.exp() * (log_reward - mean).square()).sum().sqrt()
    assert total_variation(q, optimum(reference, log_reward, beta * spread, "task")) < CLOSE
    assert total_variation(q, optimum(reference, log_reward, beta, "task")) > 2 * CLOSE


@examples(40)
@given(seed=st.integers(0, 10_000))
def test_on_policy_vargrads_gradient_is_twice_that_of_rloo_on_log_r_less_log_q(seed):
    """Both are KL(q || posterior)'s: Richter et al. 2020 (arXiv 2010.10436)."""
    batch = random_batch(seed)
    stop = torch.where(batch.ends, batch.log_stop, 0.0).sum(dim=1)
    batch = replace(batch, log_pf_behavior=batch.log_pf.clone(), log_stop_behavior=stop.clone())
    leaves = [batch.log_pf.requires_grad_(), batch.log_stop.requires_grad_()]
    vargrad, rloo = (
        torch.autograd.grad(loss_of(kind=kind)(batch).loss, leaves) for kind in ("vargrad", "rloo")
    )
    assert torch.allclose(vargrad[0] * batch.by_policy, 2 * rloo[0], atol=1e-12)
    assert torch.allclose(vargrad[1], 2 * rloo[1], atol=1e-12)
