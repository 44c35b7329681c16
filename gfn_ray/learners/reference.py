"""p_ref: the frozen policy that an objective compares its own with.

The base model, or the policy as it was before the first update by the objective. After SFT the two
differ, and preference losses mean the latter: the base would pull the policy back to before SFT.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gfn_ray.config.objectives import ReferenceKind

Weights = dict[str, npt.NDArray[np.float32]]


class Reference:
    """model: whose trainable parameters are the policy's. kind: which policy p_ref is."""

    def __init__(self, model: Any, kind: ReferenceKind) -> None:
        self._model = model
        self._kind = kind
        self._start: list[Tensor] | None = None

    def weights(self) -> AbstractContextManager[Any]:
        """Inside it, the model is p_ref. Not for passes with a graph, nor while there is one."""
        if self._kind == "base":
            base: AbstractContextManager[Any] = self._model.disable_adapter()
            return base
        return self._at_start()

    @torch.no_grad()
    def before_update(self) -> None:
        """Keeps the policy's weights as those of the start, unless an update was made before."""
        if self._kind == "start" and self._start is None:
            self._start = [p.detach().clone() for p in self._parameters]

    def state(self) -> Weights | None:
        """The weights of the start; None if they are not known or not needed."""
        if self._start is None:
            return None
        kept = enumerate(self._start)
        return {str(i): one.to("cpu", torch.float32).numpy().copy() for i, one in kept}

    def restore(self, state: Weights | None) -> None:
        """Restores what state() returned."""
        self._start = None
        if state is not None:
            numbered = enumerate(self._parameters)
            self._start = [torch.from_numpy(state[str(i)].copy()).to(p) for i, p in numbered]

    @property
    def _parameters(self) -> list[Any]:
        return [p for p in self._model.parameters() if p.requires_grad]

    @contextmanager
    def _at_start(self) -> Iterator[None]:
        parameters = self._parameters
        own = [p.data for p in parameters]
        for parameter, start in zip(parameters, self._start or own, strict=True):
            parameter.data = start
        try:
            yield
        finally:
            for parameter, before in zip(parameters, own, strict=True):
                parameter.data = before
