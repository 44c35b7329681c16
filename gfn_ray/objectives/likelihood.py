"""Likelihood of accepted trajectories: the update of STaR and other expert iteration."""

from __future__ import annotations

from functools import partial

import torch

from gfn_ray.config.objectives import MLEConfig
from gfn_ray.objectives.flows import FlowBatch, Objective, ObjectiveLoss
from gfn_ray.objectives.whole import estimated_log_z, log_reward, own_actions, taken

ROUNDING = 1e-4
"""Nats by which log R may miss itself after it was divided by T_r and multiplied again."""


def make_mle(settings: MLEConfig) -> Objective:
    return Objective(partial(mle, accept_from=settings.accept_from), metrics=("accepted_fraction",))


def mle(batch: FlowBatch, *, accept_from: float | None) -> ObjectiveLoss:
    """-log q of accepted z, a mean over their actions, as in SFT. Its minimum is the distribution
    of the accepted z in the batches. accept_from: smallest log R of one; None: all are."""
    r = batch.temperature * log_reward(batch)
    least = -torch.inf if accept_from is None else accept_from - ROUNDING
    accepted = (r >= least).to(r.dtype)
    log_q = own_actions(batch).sum(dim=1)
    count = taken(batch).sum(dim=1).to(log_q.dtype)
    total = (accepted * count).sum()
    return ObjectiveLoss(
        -(accepted * log_q).sum() / total.clamp_min(1.0),
        total,
        -(accepted * log_q / count).detach(),
        estimated_log_z(batch, log_reward(batch)),
        {"accepted_fraction": accepted},
    )
