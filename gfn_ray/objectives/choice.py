"""From settings to a loss."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from gfn_ray.config import ObjectiveConfig
from gfn_ray.objectives.flows import FlowBatch, Objective, ObjectiveLoss
from gfn_ray.objectives.pairs import detailed_balance, subtb, trajectory_balance
from gfn_ray.objectives.variance import reference_tb, vargrad


def choose(config: ObjectiveConfig) -> Objective:
    """The loss that `objective` names, in float64 where that is set."""
    root = config.root_flow
    learned = root == "learned"
    objectives = {
        "subtb": Objective(
            partial(subtb, root_flow=root, subtb_lambda=config.subtb_lambda), needs_log_z=learned
        ),
        "db": Objective(partial(detailed_balance, root_flow=root), needs_log_z=learned),
        "tb": Objective(partial(trajectory_balance, root_flow=root), needs_log_z=learned),
        "vargrad": Objective(vargrad),
        "ref_tb": Objective(reference_tb, needs_reference=True),
    }
    objective = objectives[config.kind]

    def in_float64(batch: FlowBatch) -> ObjectiveLoss:
        return objective.loss(batch.double())

    return replace(objective, loss=in_float64) if config.float64 else objective
