"""Makes the objective that the settings name."""

from __future__ import annotations

from dataclasses import replace
from pkgutil import resolve_name

from gfn_ray.config import BaseObjectiveConfig
from gfn_ray.objectives.flows import FlowBatch, Objective, ObjectiveLoss


def choose(config: BaseObjectiveConfig) -> Objective:
    """Returns the objective of these settings, computed in float64 if they say so."""
    objective: Objective = resolve_name(config.maker)(config)

    def in_float64(batch: FlowBatch) -> ObjectiveLoss:
        return objective.loss(batch.double())

    return replace(objective, loss=in_float64) if config.float64 else objective
