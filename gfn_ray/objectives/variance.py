"""Losses that compare the trajectories of one query with each other, without a root flow."""

from __future__ import annotations

from dataclasses import replace

import torch

from gfn_ray.config.objectives import RefTBConfig, VarGradConfig
from gfn_ray.objectives.flows import FlowBatch, Objective, ObjectiveLoss, group_mean, same_group


def make_vargrad(_: VarGradConfig) -> Objective:
    return Objective(vargrad)


def make_reference_tb(_: RefTBConfig) -> Objective:
    return Objective(reference_tb, needs_reference=True)


def vargrad(batch: FlowBatch) -> ObjectiveLoss:
    """The sample variance of u_T over each query's trajectories, averaged over trajectories.

    Each query's log Z is the mean of its own u_T = log R(z) - log q(z), so none is learned.
    Source: Richter et al. 2020 (the log-variance divergence); Zhang et al. 2023 for GFlowNets.
    A query with a single trajectory has no variance and is not counted.
    """
    ends = batch.ends
    u = torch.where(ends, batch.u, 0.0).sum(dim=1)
    # The gradient through the mean is sum_i (u_i - mean) = 0; dropping it reduces float32 error.
    mean = group_mean(batch.u.detach(), ends, batch.group)
    count = same_group(batch.group).sum(dim=1)  # trajectories of each row's query
    counted = (count > 1).to(u.dtype)
    squares = (u - mean).square() * counted
    unbiased = squares * count / (count - 1).clamp_min(1)
    total = counted.sum()
    loss = unbiased.sum() / total.clamp_min(1.0)
    return ObjectiveLoss(loss, total, squares.detach(), mean)


def reference_tb(batch: FlowBatch) -> ObjectiveLoss:
    """VarGrad TB on log R = log p_ref(z) + r(z) / beta: the posterior of KL-regularised RL.

    beta is the reward temperature, by which batch.log_reward was divided. Source: Bartoldson et
    al. 2025, Trajectory Balance with Asynchrony.
    """
    return vargrad(replace(batch, log_reward=batch.log_reward + batch.log_reference))
