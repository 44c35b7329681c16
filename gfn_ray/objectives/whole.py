"""A whole z as the actions of the policy, its tokens and then the stop, and the target it is for.

Owns what losses of policy gradients, preferences and likelihood share. None of them looks at
prefixes of z.

With beta = T_r, reward r and reference p_ref, KL-regularised RL maximises
E_q[r] - beta KL(q || p_ref), whose optimum is q(z) proportional to p_ref(z) exp(r(z) / beta)
(Korbak et al. 2022, arXiv 2205.11275). Two rewards:

    task:     r = log R                     optimum p_ref R^(1/T_r), the target of "ref_tb"
    matched:  r = log R - beta log p_ref    optimum R^(1/T_r), the target of every other objective
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gfn_ray.objectives.flows import FlowBatch, group_mean, same_group

SMALLEST_STD = 1e-4
"""Added to a standard deviation: the rewards of a query may all be equal."""


def actions(batch: FlowBatch, log_pf: Tensor, log_stop: Tensor) -> Tensor:
    """Log-probabilities of a whole z's actions [B, T+1]: its tokens, then the stop; 0 elsewhere.

    log_pf [B, T]. log_stop [B, T+1] at each prefix, or [B, 1].
    """
    tokens = torch.where(batch.by_policy, log_pf, 0.0)
    return functional.pad(tokens, (0, 1)) + torch.where(batch.ends, log_stop, 0.0)


def taken(batch: FlowBatch) -> Tensor:
    """Which of them the policy took [B, T+1]."""
    return functional.pad(batch.by_policy, (0, 1)) | batch.ends


def own_actions(batch: FlowBatch) -> Tensor:
    """log q of a whole z's actions [B, T+1]."""
    return actions(batch, batch.log_pf, batch.log_stop)


def reference_actions(batch: FlowBatch) -> Tensor:
    """log p_ref of them [B, T+1]."""
    if batch.log_pf_reference is None or batch.log_stop_reference is None:
        raise ValueError("an objective that uses p_ref must say needs_reference")
    return actions(batch, batch.log_pf_reference, batch.log_stop_reference)


def behavior_actions(batch: FlowBatch) -> Tensor:
    """Their log-probabilities under the policy that sampled z [B, T+1]."""
    if batch.log_pf_behavior is None or batch.log_stop_behavior is None:
        raise ValueError("an objective that uses the sampler's log q must say needs_behavior")
    return actions(batch, batch.log_pf_behavior, batch.log_stop_behavior[:, None])


def log_reward(batch: FlowBatch) -> Tensor:
    """log R / T_r of each whole z [B]."""
    return torch.where(batch.ends, batch.log_reward, 0.0).sum(dim=1)


def log_target(batch: FlowBatch, matched: bool) -> Tensor:
    """Log of what q shall be proportional to [B]."""
    own = log_reward(batch)
    return own if matched else own + reference_actions(batch).sum(dim=1)


def reward(batch: FlowBatch, matched: bool) -> Tensor:
    """r of each whole z [B], in nats, untempered."""
    own = log_reward(batch)
    if matched:
        own = own - reference_actions(batch).sum(dim=1)
    return batch.temperature * own


def leave_one_out(values: Tensor, group: Tensor) -> Tensor:
    """Each value less the mean of the others of its query [B]; 0 if there are none."""
    same = same_group(group).to(values.dtype)
    count = same.sum(dim=1)
    mean = same @ values / count
    return (values - mean) * count / (count - 1).clamp_min(1)


def standardised(values: Tensor, group: Tensor) -> Tensor:
    """Each value less its query's mean, divided by its query's standard deviation [B]."""
    same = same_group(group).to(values.dtype)
    count = same.sum(dim=1)
    centred = values - same @ values / count
    variance = same @ centred.square() / (count - 1).clamp_min(1)
    return centred / (variance.sqrt() + SMALLEST_STD)


def estimated_log_z(batch: FlowBatch, log_targets: Tensor) -> Tensor:
    """Mean over a query's z of log target - log q [B], detached."""
    ratio = (log_targets - own_actions(batch).sum(dim=1)).detach()
    every = torch.ones_like(ratio, dtype=torch.bool)
    return group_mean(ratio[:, None], every[:, None], batch.group)
