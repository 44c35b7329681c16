"""Losses over trajectories: tensors in, tensors out. No models, no Ray.

`choose` returns the loss that the settings name; `flows` defines its input and output.
"""

from gfn_ray.objectives.choice import choose
from gfn_ray.objectives.flows import FlowBatch, Objective, ObjectiveLoss

__all__ = ["FlowBatch", "Objective", "ObjectiveLoss", "choose"]
