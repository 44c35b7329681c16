"""SubTB(lambda) with a batch-mean root flow, for policies that may stop at many prefixes.

Owns the loss only: its inputs are log-probabilities that the learner recomputed under
the support and log-rewards that it already divided by the reward temperature.

Source: Madan et al. 2023 (SubTB), in the modified form of Hu et al. 2024, eq. 3, where
every terminable state gives its own flow, log F(s) = log R(s) - log q(stop | s).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SubTBLoss:
    """loss: scalar. weight: the sum of pair weights it was divided by, so that losses of
    parts of a batch add up as sum(loss * weight) / sum(weight). per_trajectory [B]: detached
    mean squared residual of each. root_flow [B]: detached log F(root) of its query, in nats."""

    loss: Tensor
    weight: Tensor
    per_trajectory: Tensor
    root_flow: Tensor


def subtb(
    log_pf: Tensor,
    log_stop: Tensor,
    log_reward: Tensor,
    terminable: Tensor,
    group: Tensor,
    *,
    subtb_lambda: float = 1.0,
) -> SubTBLoss:
    """Weighted mean of squared sub-trajectory residuals.

    log_pf [B, T]: log q(z_k | s_{k-1}), 0 at padding and at tool-written tokens.
    log_stop [B, T+1]: log q(stop | s_t), read only where terminable.
    log_reward [B, T+1]: log R(s_t) / T_r, read only where terminable.
    terminable [B, T+1]: bool, the nodes of the loss; at least one in every row.
    group [B]: integer id of each trajectory's query.

    With u_t = log R(s_t)/T_r - log q(stop | s_t) - sum_{k<=t} log q(z_k | s_{k-1}), a
    residual between nodes i < j is Delta_ij = u_i - u_j, since the path between them
    cancels. u is constant, and equal to log Z, exactly when q is the posterior. The
    root's u is log F(root): u at the empty prefix where that may stop; elsewhere the
    mean of u over the group's nodes without gradient, each trajectory counting once
    (the log-partition-variance estimate; it needs two trajectories of a query).

    The loss is sum_ij lambda^(rank_j - rank_i - 1) Delta_ij^2 / sum_ij lambda^(...),
    over all pairs of all trajectories of the batch.
    """
    if not bool(terminable.any(dim=1).all()):
        raise ValueError(
            "every trajectory needs a terminable prefix; give dead ends a floor reward"
        )
    zeros = torch.zeros_like(log_pf[:, :1])
    path = torch.cat([zeros, log_pf.cumsum(dim=1)], dim=1)  # [B, T+1]
    u = torch.where(terminable, log_reward - log_stop - path, torch.zeros_like(path))
    root_is_node = terminable[:, 0]
    root = torch.where(root_is_node, u[:, 0], _group_mean(u.detach(), terminable, group))

    # Column 0 is the root, columns 1.. are the non-empty prefixes.
    nodes = torch.cat([torch.ones_like(terminable[:, :1]), terminable[:, 1:]], dim=1)
    values = torch.cat([root[:, None], u[:, 1:]], dim=1)
    if subtb_lambda == 1.0:
        squares, weights = _all_pairs(values, nodes)
    else:
        squares, weights = _decaying_pairs(values, nodes, subtb_lambda)
    per_trajectory = (squares / weights.clamp_min(torch.finfo(weights.dtype).tiny)).detach()
    total = weights.sum()
    return SubTBLoss(squares.sum() / total, total, per_trajectory, root.detach())


def _group_mean(u: Tensor, terminable: Tensor, group: Tensor) -> Tensor:
    """Mean of u over a query's trajectories [B], each the mean over its own nodes."""
    own = (u * terminable).sum(dim=1) / terminable.sum(dim=1)
    same = (group[:, None] == group[None, :]).to(u.dtype)
    return same @ own / same.sum(dim=1)


def _all_pairs(values: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over pairs of squared differences [B], and their number [B], in O(nodes).

    sum_{i<j} (v_i - v_j)^2 = n sum v^2 - (sum v)^2; centring first keeps float32 from
    cancelling two large numbers.
    """
    count = nodes.sum(dim=1).to(values.dtype)
    mean = (values * nodes).sum(dim=1, keepdim=True) / count[:, None]
    centred = torch.where(nodes, values - mean.detach(), torch.zeros_like(values))
    squares = count * centred.square().sum(dim=1) - centred.sum(dim=1).square()
    return squares, count * (count - 1) / 2


def _decaying_pairs(values: Tensor, nodes: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """The same with weight decay^(rank_j - rank_i - 1) on a pair; O(nodes^2) memory."""
    rank = nodes.cumsum(dim=1)
    gap = rank[:, None, :] - rank[:, :, None] - 1  # [B, i, j]
    pair = nodes[:, :, None] & nodes[:, None, :] & (gap >= 0)
    pair &= torch.ones_like(pair[0]).triu(diagonal=1)
    weight = torch.where(pair, decay ** gap.clamp_min(0).to(values.dtype), 0.0)
    delta = values[:, :, None] - values[:, None, :]
    return (weight * delta.square()).sum(dim=(1, 2)), weight.sum(dim=(1, 2))
