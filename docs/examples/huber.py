"""Random numbers by an objective of your own, trajectory balance with Huber's loss: one z with an
odd log R bends the others less. python docs/examples/huber.py"""

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
    """Trajectory balance about the batch's mean, in which large residuals count linearly."""

    kind: Literal["huber"] = "huber"
    maker: ClassVar[str] = "huber:make"
    delta: float = Field(5.0, gt=0, description="Nats from which a residual counts linearly.")


class HuberJob(RandomNumberJob):
    """Random numbers by Huber's loss."""

    objective: HuberConfig = Field(default_factory=HuberConfig, description="The loss.")


def make(settings: HuberConfig) -> Objective:
    """What `maker` names."""
    from gfn_ray.objectives import Objective

    return Objective(partial(huber, delta=settings.delta))


def huber(batch: FlowBatch, delta: float) -> ObjectiveLoss:
    """u_T of each whole z against its query's mean; every z weighs the same."""
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
