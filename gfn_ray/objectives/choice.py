"""From settings to a loss."""

from __future__ import annotations

from functools import partial

from gfn_ray.config import ObjectiveConfig
from gfn_ray.objectives.flows import FlowBatch, Objective, ObjectiveLoss
from gfn_ray.objectives.pairs import detailed_balance, subtb, trajectory_balance
from gfn_ray.objectives.variance import reference_tb, vargrad


def choose(config: ObjectiveConfig) -> Objective:
    """The loss that `objective` names, in float64 where that is set."""
    objectives: dict[str, Objective] = {
        "subtb": partial(subtb, root_flow=config.root_flow, subtb_lambda=config.subtb_lambda),
        "db": partial(detailed_balance, root_flow=config.root_flow),
        "tb": partial(trajectory_balance, root_flow=config.root_flow),
        "vargrad": vargrad,
        "ref_tb": reference_tb,
    }
    objective = objectives[config.kind]

    def in_float64(batch: FlowBatch) -> ObjectiveLoss:
        return objective(batch.double())

    return in_float64 if config.float64 else objective
