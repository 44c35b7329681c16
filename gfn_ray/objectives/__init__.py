"""Losses over trajectories: tensors in, tensors out. No models, no Ray.

`choose` gives the loss that the settings name; `flows` holds what goes in and comes out.
"""

from gfn_ray.objectives.choice import choose
from gfn_ray.objectives.flows import FlowBatch, Objective, ObjectiveLoss

__all__ = ["FlowBatch", "Objective", "ObjectiveLoss", "choose"]
