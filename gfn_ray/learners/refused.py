"""An update that was not applied, since a number in it is NaN or infinite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt


@dataclass(frozen=True)
class Refused:
    """Parameters, optimizer and schedule are as they were.

    reason: which number, as in "the loss is nan". known: by name, what the update found out of
    each trajectory [B], in the order of the batch.
    """

    reason: str
    known: dict[str, npt.NDArray[Any]]
