"""Clipped policy gradients over the K trajectories of a query: PPO, RLOO and GRPO.

All weigh the actions of z by an advantage that compares z with the others of its query, and by the
ratio of q to the policy that sampled z, clipped. They differ in where the ratio is taken, how the
advantage is scaled, and where the KL to p_ref stands. Owns no value network: the others of a query
are the baseline. `whole` says what rewards are.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from gfn_ray.config.objectives import GRPOConfig, PPOConfig, RLOOConfig
from gfn_ray.objectives.flows import FlowBatch, Objective, ObjectiveLoss
from gfn_ray.objectives.whole import (
    behavior_actions,
    estimated_log_z,
    leave_one_out,
    log_target,
    own_actions,
    reference_actions,
    reward,
    standardised,
    taken,
)

_METRICS = ("advantage_abs", "clip_fraction")
_KL = "kl_reference"


def make_ppo(settings: PPOConfig) -> Objective:
    return _with_kl_in_reward(partial(ppo, clip=settings.clip, matched=settings.matched), settings)


def make_rloo(settings: RLOOConfig) -> Objective:
    return _with_kl_in_reward(partial(rloo, clip=settings.clip, matched=settings.matched), settings)


def _with_kl_in_reward(loss: partial[ObjectiveLoss], settings: PPOConfig | RLOOConfig) -> Objective:
    # Matched, r - beta (log q - log p_ref) = log R - beta log q: p_ref cancels.
    return Objective(
        loss,
        needs_reference=not settings.matched,
        needs_behavior=True,
        metrics=_METRICS if settings.matched else (*_METRICS, _KL),
    )


def make_grpo(settings: GRPOConfig) -> Objective:
    return Objective(
        partial(grpo, clip=settings.clip, matched=settings.matched),
        needs_reference=True,
        needs_behavior=True,
        metrics=(*_METRICS, _KL),
    )


def ppo(batch: FlowBatch, *, clip: float, matched: bool) -> ObjectiveLoss:
    """A ratio for each action, advantages by leave-one-out; a mean over actions.

    The KL to p_ref is in the reward, as log q - log p_ref of the whole z under the policy that
    sampled it: the difference itself, whose expected gradient is that of KL(q || p_ref). Sources:
    Schulman et al. 2017, eq. 7; the KL of Ziegler et al. 2019; the baseline of Kool et al. 2019 in
    place of a value network.
    """
    old = behavior_actions(batch)
    advantage = _advantage_with_kl(batch, old, matched)
    log_ratio = own_actions(batch) - old
    return _mean_over_actions(batch, advantage, log_ratio, clip, matched)


def grpo(batch: FlowBatch, *, clip: float, matched: bool) -> ObjectiveLoss:
    """PPO's ratios with standardised advantages, and beta k3 added to each action's loss.

    k3 = p_ref/q - log(p_ref/q) - 1 estimates the KL with little variance. As a loss its gradient
    would be that of KL(p_ref || q) (Liu et al. 2025, arXiv 2510.01555); times the ratio, as in
    DeepSeek-V3.2 (arXiv 2512.02556) and TRL, it is that of KL(q || p_ref) at each action. So, for z
    of one action, learning ends at p_ref exp(r / (beta s)), s the standard deviation of r under q.
    Sources: Shao et al. 2024 (DeepSeekMath), eq. 3 and 4; the mean over all actions of a batch of
    Yu et al. 2025 (DAPO).
    """
    log_q = own_actions(batch)
    advantage = standardised(reward(batch, matched), batch.group)
    log_ratio = log_q - behavior_actions(batch)
    log_p_over_q = reference_actions(batch) - log_q
    k3 = torch.expm1(log_p_over_q) - log_p_over_q
    penalty = batch.temperature * log_ratio.exp() * k3
    return _mean_over_actions(batch, advantage, log_ratio, clip, matched, penalty)


def rloo(batch: FlowBatch, *, clip: float, matched: bool) -> ObjectiveLoss:
    """One ratio for the whole z, PPO's advantages and KL; a mean over trajectories.

    On-policy and matched at T_r = 1 its gradient is half of VarGrad's. Source: Ahmadian et al.
    2024.
    """
    old = behavior_actions(batch)
    advantage = _advantage_with_kl(batch, old, matched)
    log_ratio = (own_actions(batch) - old).sum(dim=1)
    surrogate, clipped = _surrogate(log_ratio, advantage, clip)
    total = surrogate.new_tensor(len(surrogate))
    return ObjectiveLoss(
        -surrogate.mean(),
        total,
        -surrogate.detach(),
        estimated_log_z(batch, log_target(batch, matched)),
        _metrics(batch, advantage, clipped.to(surrogate.dtype)),
    )


def _advantage_with_kl(batch: FlowBatch, old: Tensor, matched: bool) -> Tensor:
    """Of r - beta (log q_old - log p_ref) = beta (log target - log q_old), by leave-one-out [B]."""
    returns = batch.temperature * (log_target(batch, matched) - old.sum(dim=1))
    return leave_one_out(returns, batch.group)


def _surrogate(log_ratio: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Returns min(ratio A, clipped ratio A), and where clipping left no gradient."""
    ratio = log_ratio.exp()
    bounded = ratio.clamp(1 - clip, 1 + clip)
    surrogate = torch.minimum(ratio * advantage, bounded * advantage)
    return surrogate, (surrogate < ratio * advantage).detach()


def _mean_over_actions(
    batch: FlowBatch,
    advantage: Tensor,
    log_ratio: Tensor,
    clip: float,
    matched: bool,
    penalty: Tensor | None = None,
) -> ObjectiveLoss:
    """log_ratio, penalty [B, T+1]: of each action."""
    is_action = taken(batch)
    surrogate, clipped = _surrogate(log_ratio, advantage[:, None], clip)
    losses = -surrogate if penalty is None else penalty - surrogate
    losses = torch.where(is_action, losses, 0.0)
    own = is_action.sum(dim=1).to(losses.dtype)
    return ObjectiveLoss(
        losses.sum() / own.sum(),
        own.sum(),
        (losses.sum(dim=1) / own).detach(),
        estimated_log_z(batch, log_target(batch, matched)),
        _metrics(batch, advantage, (clipped & is_action).sum(dim=1) / own),
    )


def _metrics(batch: FlowBatch, advantage: Tensor, clipped: Tensor) -> dict[str, Tensor]:
    found = {"advantage_abs": advantage.abs().detach(), "clip_fraction": clipped}
    if batch.log_pf_reference is not None:
        found[_KL] = (own_actions(batch) - reference_actions(batch)).sum(dim=1).detach()
    return found
