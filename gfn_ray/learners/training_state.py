"""The state of an AdamW optimizer and its parameters as plain arrays, exact to the bit.

Parameters are identified by their position in the optimizer, so both sides must be built from the
same settings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

State = dict[str, Any]

_MOMENTS = ("exp_avg", "exp_avg_sq")


def read_training_state(optimizer: torch.optim.Optimizer) -> State:
    """Copies all parameters, and the moments of those ever updated."""
    parameters = _parameters(optimizer)
    updated = {i: optimizer.state[p] for i, p in enumerate(parameters) if p in optimizer.state}
    return {
        "parameters": {str(i): _array(p) for i, p in enumerate(parameters)},
        "moments": {
            str(i): {name: _array(state[name]) for name in _MOMENTS} for i, state in updated.items()
        },
        "updates": {str(i): float(state["step"]) for i, state in updated.items()},
    }


@torch.no_grad()
def write_training_state(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Restores optimizer and parameters. Raises ValueError if number or shapes differ."""
    parameters = _parameters(optimizer)
    if len(parameters) != len(state["parameters"]):
        raise ValueError(f"{len(state['parameters'])} parameters for {len(parameters)}")
    optimizer.state.clear()
    for i, parameter in enumerate(parameters):
        stored = torch.from_numpy(state["parameters"][str(i)])
        if stored.shape != parameter.shape:
            raise ValueError(
                f"parameter {i} has shape {tuple(parameter.shape)}, stored {tuple(stored.shape)}"
            )
        parameter.copy_(stored)
        if str(i) in state["moments"]:
            moments = state["moments"][str(i)]
            optimizer.state[parameter] = {
                "step": torch.tensor(state["updates"][str(i)]),
                **{name: torch.from_numpy(moments[name].copy()).to(parameter) for name in _MOMENTS},
            }


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _array(tensor: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = tensor.detach().to("cpu", torch.float32).numpy().copy()
    return array
