"""Random numbers with a custom objective: trajectory balance with the Huber loss, so that one z
with an outlying log R affects the others less. python docs/examples/huber.py"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from gfn_ray.cli import main, parse
from gfn_ray.config import BaseObjectiveConfig
from gfn_ray.tasks.random_number.config import RandomNumberJob

if TYPE_CHECKING:
    from gfn_ray.objectives import FlowBatch, Objective, ObjectiveLoss


class HuberConfig(BaseObjectiveConfig):
    """Trajectory balance around the batch mean, in which large residuals count linearly."""

    kind: Literal["huber"] = "huber"
    maker: ClassVar[str] = "huber:make"
    delta: float = Field(5.0, gt=0, description="Residual in nats beyond which the loss is linear.")


class HuberJob(RandomNumberJob):
    """Random numbers with the Huber loss."""

    objective: HuberConfig = Field(default_factory=HuberConfig, description="The loss.")


def make(settings: HuberConfig) -> Objective:
    """Makes the objective; `maker` names this function."""
    from gfn_ray.objectives import Objective

    return Objective(partial(huber, delta=settings.delta))


def huber(batch: FlowBatch, delta: float) -> ObjectiveLoss:
    """Compares u_T of each whole z with its query's mean; every z weighs the same."""
    import torch

    from gfn_ray.objectives import ObjectiveLoss
    from gfn_ray.objectives.flows import group_mean

    u = torch.where(batch.ends, batch.u, 0.0).sum(dim=1)
    log_z = group_mean(batch.u.detach(), batch.ends, batch.group)
    losses = 2 * torch.nn.functional.huber_loss(u, log_z, reduction="none", delta=delta)
    return ObjectiveLoss(losses.mean(), u.new_tensor(len(u)), losses.detach(), log_z)


def job() -> int:
    from gfn_ray.runtime.run import run
    from gfn_ray.tasks.random_number.task import RandomNumberTask

    config = parse(HuberJob)
    return run(config, RandomNumberTask(config))


if __name__ == "__main__":
    sys.exit(main(job))
