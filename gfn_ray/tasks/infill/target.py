"""The term of the infilling target against copying: a frozen LM rewards a repeated sentence."""

from __future__ import annotations

from dataclasses import dataclass

from gfn_ray.evaluation.text_metrics.text import is_copy
from gfn_ray.trajectory import Query


@dataclass(frozen=True)
class CopyPenalty:
    """Returns -nats for a text that nearly repeats a given sentence, as in `copy_fraction`."""

    nats: float

    def __call__(self, query: Query, text: str) -> float:
        return -self.nats if is_copy(text, query.texts["given"].split("\n")) else 0.0
