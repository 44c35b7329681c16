"""The learned log Z: where it starts, what it depends on, and what it learns."""

import numpy as np
import pytest
import torch

from gfn_ray.learners.log_z import LogZHead
from gfn_ray.policy.log_q import TrajectoryGroup
from testing.policies import groups_of, job, load, lora_trainer


def shifted(group, log_r):
    """The same group with this added to every log R."""
    return TrajectoryGroup(
        group.prompt_ids, [t.scored(t.log_reward + log_r) for t in group.trajectories]
    )


def fitted(head, groups, targets, steps=300):
    """The head after least squares on one number a query."""
    optimizer = torch.optim.Adam(head.parameters, lr=0.1)
    wanted = torch.tensor(targets).repeat_interleave(
        torch.tensor([len(g.trajectories) for g in groups])
    )
    for _ in range(steps):
        optimizer.zero_grad()
        (head(groups) - wanted).square().mean().backward()
        optimizer.step()
    return head


def with_weights_of(head, model):
    """A head on a model, with another's weights and without what it has read before."""
    again = LogZHead(model)
    with torch.no_grad():
        for own, given in zip(again.parameters, head.parameters, strict=True):
            own.copy_(given)
    return again


def test_every_query_starts_at_the_first_estimate(base, support):
    groups = groups_of(support, queries=3)
    head = LogZHead(base)
    head.start_at(-60.0)
    assert head(groups).tolist() == [-60.0] * 12


def test_the_second_update_does_not_start_anew(base, support):
    groups = groups_of(support)
    trainer = lora_trainer(base, job({"root_flow": "learned"}), support)
    trainer.step(groups)
    after_one = trainer._log_z(groups)[0].item()
    raised = [
        TrajectoryGroup(g.prompt_ids, [t.scored(t.log_reward + 100) for t in g.trajectories])
        for g in groups
    ]
    trainer.step(raised)  # the estimate from these would be 100 nats higher
    assert abs(trainer._log_z(groups)[0].item() - after_one) < 1


def test_the_first_update_reads_log_z_off_its_own_trajectories(base, support):
    """At the mean of log R/T - log q."""
    groups = groups_of(support)
    trainer = lora_trainer(base, job({"root_flow": "learned"}, temperature=2.0), support)
    log_q = trainer.score(groups).log_q
    log_reward = np.array([t.final_log_reward for g in groups for t in g.trajectories])
    first = trainer.step(groups).metrics["log_z"]
    assert first == pytest.approx(float(np.mean(log_reward / 2.0 - log_q)), rel=1e-4)


def test_trajectories_of_one_query_share_a_value_in_the_order_of_the_groups(base, support):
    a, b = groups_of(support, count=3)
    groups = [a, TrajectoryGroup(b.prompt_ids, b.trajectories[:2])]
    values = fitted(LogZHead(base), groups, [1.0, -1.0], steps=20)(groups)
    assert values.shape == (5,)
    assert (values[:3] == values[0]).all() and (values[3:] == values[3]).all()
    assert values[0] > values[3]


def test_the_head_learns_a_different_number_for_each_query(base, support):
    groups = groups_of(support)
    values = fitted(LogZHead(base), groups, [-40.0, -20.0])(groups)
    assert values.tolist() == pytest.approx([-40.0] * 4 + [-20.0] * 4, abs=0.1)


def test_log_z_does_not_depend_on_the_state_of_the_adapter(tiny_dir, base, support):
    """With the head's weights held, training the policy changes nothing that it reads."""
    groups = groups_of(support)
    trainer = lora_trainer(base, job(), support)
    head = fitted(LogZHead(trainer.model), groups, [-40.0, -20.0], steps=50)
    before = head(groups)
    log_q = trainer.score(groups).log_q
    for _ in range(3):
        trainer.step(groups)
    assert np.abs(trainer.score(groups).log_q - log_q).max() > 0.1, "the policy has moved"
    after = with_weights_of(head, trainer.model)(groups)
    alone = with_weights_of(head, load(tiny_dir))(groups)
    assert torch.allclose(after, before, atol=1e-4)
    assert torch.allclose(alone, before, atol=1e-4)


def test_reading_log_z_leaves_the_adapter_on_and_trainable(base, support):
    groups = groups_of(support)
    trainer = lora_trainer(base, job(), support)
    for _ in range(3):
        trainer.step(groups)
    log_q = trainer.score(groups).log_q
    LogZHead(trainer.model)(groups)
    assert np.array_equal(trainer.score(groups).log_q, log_q)
    assert all(p.requires_grad == ("lora" in n) for n, p in trainer.model.named_parameters())


def test_updates_pull_log_z_of_each_query_to_its_own_mean(base, support):
    """Of log R - log q, the least squares of TB; the policy hardly moves meanwhile."""
    low, high = groups_of(support, count=2)
    groups = [low, shifted(high, 20.0)]
    objective = {"kind": "tb", "root_flow": "learned", "log_z_lr": 0.2}
    trainer = lora_trainer(base, job(objective, lr=1e-9), support)
    for _ in range(80):
        trainer.step(groups)
    found = [trainer.step([group]).metrics["log_z"] for group in groups]
    log_reward = np.array([t.final_log_reward for g in groups for t in g.trajectories])
    means = (log_reward - trainer.score(groups).log_q).reshape(2, -1).mean(axis=1)
    assert abs(means[1] - means[0]) > 10
    assert found == pytest.approx(means.tolist(), abs=0.5)


def test_log_z_learns_at_its_own_rate_and_the_policy_at_its(tiny_dir, support):
    """The head's rate changes what log Z is after an update, and not what the policy is."""
    groups = groups_of(support)
    made = []
    for rate in (1e-3, 1.0):
        objective = {"root_flow": "learned", "log_z_lr": rate}
        trainer = lora_trainer(load(tiny_dir), job(objective), support)
        trainer.step(groups)
        made.append((trainer.score(groups).log_q, trainer.step(groups).metrics["log_z"]))
    (slow_q, slow_z), (fast_q, fast_z) = made
    assert np.allclose(slow_q, fast_q, atol=1e-5)
    assert abs(slow_z - fast_z) > 0.1
