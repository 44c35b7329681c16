"""A decoder's name and settings. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Decoder:
    """A decoder of the frozen LM under the policy's support.

    name: for display, unique in a run. sample: independent draws at `temperature` from
    the smallest set of actions with mass `top_p`. greedy: the likeliest action at each step, one
    z per query. beam: `groups` parallel beams; each pays `diversity_penalty`, in nats, for
    an action that an earlier one took at the same position.
    """

    name: str
    kind: Literal["sample", "greedy", "beam"]
    temperature: float = 1.0
    top_p: float = 1.0
    groups: int = 1
    diversity_penalty: float = 0.0

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and 0 < self.top_p <= 1 and self.groups >= 1):
            raise ValueError(
                f"decoder {self.name!r} needs temperature > 0, 0 < top_p <= 1 and groups >= 1, got "
                f"{self.temperature}, {self.top_p}, {self.groups}"
            )
