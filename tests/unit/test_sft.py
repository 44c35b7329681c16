"""Likelihood tuning: its loss by definition, tool tokens left out, chunks without effect."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gfn_ray.learners.sft import SFTTrainer
from gfn_ray.learners.split_group import parts
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.policy.log_q import TrajectoryGroup, log_q
from testing.policies import groups_of, job, load, lora_trainer


def likelihood(trainer: PolicyTrainer, support, *, lr=2e-3, budget=4096) -> SFTTrainer:
    return SFTTrainer(trainer.model, support, lr=lr, max_grad_norm=1.0, tokens_per_forward=budget)


@pytest.fixture
def tuner(tiny_dir, support):
    return likelihood(lora_trainer(load(tiny_dir), job({}), support), support)


def total_log_q(tuner, support, groups):
    masks = torch.as_tensor(support.masks)
    with torch.no_grad():
        return float(log_q(tuner._model, groups, support, masks).log_q.sum())


def test_the_loss_is_minus_log_q_a_token_with_the_stops_counted(tuner, support):
    groups = groups_of(support)
    tokens = sum(len(t) + 1 for g in groups for t in g.trajectories)
    expected = -total_log_q(tuner, support, groups) / tokens
    assert tuner.step(groups)["loss"] == pytest.approx(expected, rel=1e-5)


def test_tokens_of_a_tool_are_given_and_not_learned(tiny_dir, support):
    groups = groups_of(support)
    by_tool = [
        TrajectoryGroup(
            g.prompt_ids,
            [replace(t, tool_mask=np.ones(len(t), dtype=np.bool_)) for t in g.trajectories],
        )
        for g in groups
    ]
    tuner = likelihood(lora_trainer(load(tiny_dir), job({}), support), support)
    stops = sum(len(g.trajectories) for g in groups)
    assert tuner.step(by_tool)["tokens"] == stops


def test_updates_raise_the_likelihood_of_what_is_learned(tuner, support):
    groups = groups_of(support)
    losses = [tuner.step(groups)["loss"] for _ in range(15)]
    assert losses[-1] < 0.7 * losses[0]


def test_an_update_in_chunks_equals_the_update_at_once(tiny_dir, support):
    groups = groups_of(support, queries=3)
    found = []
    for budget in (4096, 64):
        trainer = lora_trainer(load(tiny_dir), job({}), support)
        tuner = likelihood(trainer, support, budget=budget)
        tuner.step(groups[:1])
        found.append(tuner.step(groups))
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_a_query_too_large_for_a_forward_pass_is_several(tiny_dir, support):
    groups = groups_of(support, count=20, queries=1)
    found = []
    for budget in (4096, 64):
        tuner = likelihood(lora_trainer(load(tiny_dir), job({}), support), support, budget=budget)
        found.append(tuner.step(groups))
    assert len(parts(groups[0], 64)) > 1
    assert found[0] == pytest.approx(found[1], rel=1e-3)
