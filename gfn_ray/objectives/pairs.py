"""Losses that compare pairs of nodes along one trajectory: SubTB(lambda), DB and TB.

All are sum_ij w_ij (u_i - u_j)^2 / sum_ij w_ij over pairs of nodes i < j of all
trajectories of the batch, and differ in which pairs count. `flows` says what u is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gfn_ray.config.objectives import DBConfig, RootedConfig, RootFlow, SubTBConfig, TBConfig
from gfn_ray.objectives.flows import FlowBatch, Nodes, Objective, ObjectiveLoss, nodes_with_root


def make_subtb(settings: SubTBConfig) -> Objective:
    return _rooted(subtb, settings, subtb_lambda=settings.subtb_lambda)


def make_db(settings: DBConfig) -> Objective:
    return _rooted(detailed_balance, settings)


def make_tb(settings: TBConfig) -> Objective:
    return _rooted(trajectory_balance, settings)


def _rooted(loss: Callable[..., ObjectiveLoss], settings: RootedConfig, **own: float) -> Objective:
    return Objective(
        partial(loss, root_flow=settings.root_flow, **own),
        needs_empty_z=settings.root_flow == "terminable",
        log_z_lr=settings.log_z_lr if settings.root_flow == "learned" else None,
    )


def subtb(
    batch: FlowBatch, *, root_flow: RootFlow = "batch_mean", subtb_lambda: float = 1.0
) -> ObjectiveLoss:
    """Sub-trajectory balance: all pairs, w_ij = lambda^(rank_j - rank_i - 1).

    Source: Madan et al. 2023 (SubTB), with the flows of Hu et al. 2024, eq. 3. Ranks count
    nodes, not tokens: a prefix that may not stop is not a state.
    """
    nodes = nodes_with_root(batch, batch.terminable, root_flow)
    pairs = _all_pairs(nodes) if subtb_lambda == 1 else _decaying_pairs(nodes, subtb_lambda)
    return _mean(nodes, *pairs)


def detailed_balance(batch: FlowBatch, *, root_flow: RootFlow = "batch_mean") -> ObjectiveLoss:
    """Detailed balance: neighbouring nodes only, the limit of SubTB at lambda = 0.

    Source: Bengio et al. 2023 (GFlowNet foundations), in the form of Deleu et al. 2022, in which
    every state may stop.
    """
    nodes = nodes_with_root(batch, batch.terminable, root_flow)
    return _mean(nodes, *_decaying_pairs(nodes, 0.0))


def trajectory_balance(batch: FlowBatch, *, root_flow: RootFlow = "batch_mean") -> ObjectiveLoss:
    """Trajectory balance: the root against the whole z, (log F(root) - u_T)^2.

    Source: Malkin et al. 2022. With a batch-mean root its gradient is VarGrad's up
    to a factor (n - 1) / n.
    """
    nodes = nodes_with_root(batch, batch.ends, root_flow)
    return _mean(nodes, *_all_pairs(nodes))


def _mean(nodes: Nodes, squares: Tensor, weights: Tensor) -> ObjectiveLoss:
    """Returns the loss from each trajectory's weighted squares [B] and sum of weights [B]."""
    tiny = torch.finfo(weights.dtype).tiny  # an empty z that is its own root has no pair
    per_trajectory = (squares / weights.clamp_min(tiny)).detach()
    total = weights.sum()
    return ObjectiveLoss(squares.sum() / total.clamp_min(tiny), total, per_trajectory, nodes.log_z)


def _all_pairs(nodes: Nodes) -> tuple[Tensor, Tensor]:
    """Returns the sum of squared differences over pairs [B] and their number [B], in O(nodes).

    sum_{i<j} (v_i - v_j)^2 = n sum v^2 - (sum v)^2; centring first avoids cancellation of
    two large numbers in float32.
    """
    values, is_node = nodes.values, nodes.is_node
    count = is_node.sum(dim=1).to(values.dtype)
    mean = (values * is_node).sum(dim=1, keepdim=True) / count[:, None]
    centred = torch.where(is_node, values - mean.detach(), 0.0)
    squares = count * centred.square().sum(dim=1) - centred.sum(dim=1).square()
    return squares, count * (count - 1) / 2


def _decaying_pairs(nodes: Nodes, decay: float) -> tuple[Tensor, Tensor]:
    """The same, each pair weighted by decay^(rank_j - rank_i - 1); O(nodes^2) memory."""
    values, is_node = nodes.values, nodes.is_node
    rank = is_node.cumsum(dim=1)
    gap = rank[:, None, :] - rank[:, :, None] - 1  # [B, i, j]
    pair = is_node[:, :, None] & is_node[:, None, :] & (gap >= 0)
    weight = torch.where(pair, decay ** gap.clamp_min(0).to(values.dtype), 0.0)
    delta = values[:, :, None] - values[:, None, :]
    return (weight * delta.square()).sum(dim=(1, 2)), weight.sum(dim=(1, 2))
