"""What gfn_ray is measured against computes the same numbers, so that a ratio compares like with
like."""

import numpy as np
import pytest
import torch

from gfn_ray.objectives import FlowBatch, choose
from gfn_ray.policy.log_q import TrajectoryGroup, log_q
from gfn_ray.rewards.likelihood import LikelihoodReward
from testing.makers import make_trajectory, random_query, random_trajectories
from testing.policies import job, load, lora_trainer
from textbook import log_reward, roll_out, subtb_loss


@pytest.fixture
def case(tiny_dir, support):
    """A policy away from its base, the frozen base, a query and z of several lengths of it."""
    rng = np.random.default_rng(5)
    policy = lora_trainer(load(tiny_dir), job(), support).model
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    query = random_query(rng, "q")
    z = [t.token_ids.tolist() for t in random_trajectories(rng, support, "q", 6)]
    return policy, load(tiny_dir), query, z


def by_the_book(case, support):
    policy, frozen, query, z = case
    generator = torch.Generator().manual_seed(0)
    rollout = roll_out(policy, query.prompt_ids, support, len(z), generator, forced=z)
    return rollout, log_reward(frozen, query, rollout)


def ours(case, support):
    policy, frozen, query, z = case
    reward = LikelihoodReward(tokens_per_forward=1024)
    reward.load(lambda: frozen)
    unscored = [make_trajectory(support, "q", np.array(one, dtype=np.int32)) for one in z]
    scored = reward.score([(query, one) for one in unscored])
    group = TrajectoryGroup(query.prompt_ids, scored)
    q = log_q(policy, [group], support, torch.from_numpy(support.masks))
    rewards = q.prefix_matrix([one.log_reward for one in scored])
    return FlowBatch(q.log_pf, q.log_stop, rewards, q.terminable, q.group, q.by_policy)


def test_log_q_by_the_book_is_ours(case, support):
    rollout, _ = by_the_book(case, support)
    batch = ours(case, support)
    width = rollout.log_pf.shape[1]
    assert torch.equal(rollout.terminable[:, : width + 1], batch.terminable)
    assert torch.allclose(rollout.log_pf, batch.log_pf, atol=1e-4)
    stops = rollout.log_stop[:, : width + 1]
    assert torch.allclose(stops, batch.log_stop, atol=1e-4)


def test_log_reward_by_the_book_is_ours(case, support):
    _, rewards = by_the_book(case, support)
    batch = ours(case, support)
    width = batch.log_reward.shape[1]
    assert torch.allclose(rewards[:, :width], batch.log_reward, atol=1e-3)


def test_the_loss_and_its_gradient_by_the_book_are_ours(case, support):
    policy = case[0]
    total, pairs = subtb_loss(*by_the_book(case, support))
    theirs = torch.autograd.grad(total / pairs, parameters(policy))
    result = choose(job().objective).loss(ours(case, support))
    assert float(total.detach() / pairs) == pytest.approx(float(result.loss.detach()), rel=1e-4)
    assert float(result.weight) == pairs
    mine = torch.autograd.grad(result.loss, parameters(policy))
    for one, other in zip(theirs, mine, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def test_what_is_drawn_lies_in_the_support(case, support):
    policy, _, query, _ = case
    rollout = roll_out(policy, query.prompt_ids, support, 16, torch.Generator().manual_seed(1))
    for z, length in zip(rollout.token_ids.tolist(), rollout.lengths.tolist(), strict=True):
        assert support.contains(z[:length])


def parameters(policy):
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]
