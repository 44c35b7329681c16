"""Direct preference optimisation on pairs of one query's trajectories, ranked by their reward."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gfn_ray.config.objectives import DPOConfig, Pairs
from gfn_ray.objectives.flows import FlowBatch, Objective, ObjectiveLoss, same_group
from gfn_ray.objectives.whole import (
    estimated_log_z,
    log_target,
    own_actions,
    reference_actions,
    reward,
)


def make_dpo(settings: DPOConfig) -> Objective:
    return Objective(
        partial(dpo, pairs=settings.pairs, matched=settings.matched),
        needs_reference=True,
        metrics=("margin", "accuracy", "log_ratio_chosen"),
    )


def dpo(batch: FlowBatch, *, pairs: Pairs, matched: bool) -> ObjectiveLoss:
    """-log sigmoid(beta (h_w - h_l)) over pairs of a better z and a worse, h = log q - log p_ref
    summed over the actions of z; a mean over pairs. beta is the reward temperature.

    pairs "bradley_terry": every two z of a query, and the expected loss of preferences drawn with
    probability sigmoid(r_w - r_l); its minimum is q proportional to p_ref exp(r / beta). A tie is
    an even draw. "best_worst": the best against the worst z of a query, as is usual; a query in
    which all are equal has none. Whatever beta is, nothing but the optimizer keeps such margins
    from growing. Source: Rafailov et al. 2023, eq. 7.
    """
    h = own_actions(batch).sum(dim=1) - reference_actions(batch).sum(dim=1)
    r = reward(batch, matched)
    same = same_group(batch.group)
    wins = (_bradley_terry(r, same) if pairs == "bradley_terry" else _best_worst(r, same)).detach()
    margin = batch.temperature * (h[:, None] - h[None, :])  # [B, B]: row preferred to column
    losses = -wins * logsigmoid(margin)
    total = wins.sum()
    own = wins.sum(dim=1) + wins.sum(dim=0)

    def mean_of(values: Tensor) -> Tensor:
        """Over the pairs of each trajectory [B]; NaN if it has none."""
        weighted = torch.where(wins > 0, wins * values.detach(), 0.0)
        return (weighted.sum(dim=1) + weighted.sum(dim=0)) / own

    return ObjectiveLoss(
        losses.sum() / total.clamp_min(torch.finfo(h.dtype).tiny),
        total,
        mean_of(-logsigmoid(margin)).nan_to_num(0.0),
        estimated_log_z(batch, log_target(batch, matched)),
        {
            "margin": mean_of(margin),
            "accuracy": mean_of((margin > 0).to(h.dtype)),
            # Both may fall while their difference grows.
            "log_ratio_chosen": mean_of(h[:, None].expand_as(margin)),
        },
    )


def _bradley_terry(r: Tensor, same: Tensor) -> Tensor:
    """The probability that the row's z is preferred to the column's [B, B]; 0 if not a pair."""
    pair = same & ~torch.eye(len(r), dtype=torch.bool, device=r.device)
    return torch.where(pair, torch.sigmoid(r[:, None] - r[None, :]), 0.0)


def _best_worst(r: Tensor, same: Tensor) -> Tensor:
    """1 at the row of a query's best z and the column of its worst, unless they are equal."""
    best = torch.where(same, r, -torch.inf).argmax(dim=1)
    worst = torch.where(same, r, torch.inf).argmin(dim=1)
    wins = torch.zeros_like(same, dtype=r.dtype)
    wins[best, worst] = (r[best] > r[worst]).to(r.dtype)
    return wins
