"""Named float32 arrays in one buffer, so that whoever moves them moves one object.

Owns the layout of the buffer and its precision; knows nothing of adapters. bfloat16, which numpy
lacks, is kept as the upper halves of float32 numbers, in uint16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class FlatTensors(Mapping[str, npt.NDArray[np.float32]]):
    """Arrays by name, each a view of one buffer.

    buffer [N]: float32, or uint16 for bfloat16. shapes: names and shapes in the buffer's order.
    Pickled, it is the buffer and the shapes, whatever the number of arrays.
    """

    def __init__(self, buffer: npt.NDArray[Any], shapes: Shapes) -> None:
        self.buffer = buffer
        self.shapes = shapes
        self._views: dict[str, npt.NDArray[np.float32]] | None = None

    @staticmethod
    def of(tensors: Mapping[str, Tensor], dtype: str) -> FlatTensors:
        """Copies float32 tensors, rounded to "float32" or "bfloat16": joined on the first one's
        device, and taken to the CPU in one piece."""
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in tensors.items())
        device = next(iter(tensors.values())).device
        joined = torch.cat([t.detach().reshape(-1).to(device) for t in tensors.values()])
        if dtype == "bfloat16":
            joined = joined.to(torch.bfloat16).view(torch.uint16)
        return FlatTensors(joined.cpu().numpy(), shapes)

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        return self._by_name()[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __reduce__(self) -> tuple[Any, ...]:
        return FlatTensors, (self.buffer, self.shapes)

    def _by_name(self) -> dict[str, npt.NDArray[np.float32]]:
        if self._views is None:
            numbers = self.buffer
            if numbers.dtype == np.uint16:
                numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
            views, start = {}, 0
            for name, shape in self.shapes:
                end = start + math.prod(shape)
                views[name] = numbers[start:end].reshape(shape)
                start = end
            self._views = views
        return self._views
