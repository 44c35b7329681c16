"""A decoder's name and settings. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["sample", "greedy", "beam", "best_of", "resample", "mh", "smc", "cot"]
Searching = Literal["best_of", "resample", "mh", "smc"]

_NAMES: dict[Searching, str] = {
    "best_of": "best of {}",
    "resample": "resampled from {}",
    "mh": "MH {}",
    "smc": "SMC {}",
}


@dataclass(frozen=True)
class Decoder:
    """A decoder of the frozen LM under the policy's support.

    name: for display, unique in a run. sample: independent draws at `temperature` from
    the smallest set of actions with mass `top_p`. greedy: the likeliest action at each step, one
    z per query. beam: `groups` parallel beams; each pays `diversity_penalty`, in nats, for
    an action that an earlier one took at the same position.

    With `candidates` z written for each that is returned. best_of: the one of the largest log R.
    resample: drawn from all of a query by R^(1/T) / q. mh: the last state of a Markov chain, by
    `power`. smc: drawn from all of a query's particles, by `particles`. cot: the most confident of
    so many different beginnings, one z per query, by `branching`; its answer is what follows the
    last of the tokens `answer_after`.
    """

    name: str
    kind: Kind
    temperature: float = 1.0
    top_p: float = 1.0
    groups: int = 1
    diversity_penalty: float = 0.0
    candidates: int = 1
    answer_after: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and 0 < self.top_p <= 1 and self.groups >= 1):
            raise ValueError(
                f"decoder {self.name!r} needs temperature > 0, 0 < top_p <= 1 and groups >= 1, got "
                f"{self.temperature}, {self.top_p}, {self.groups}"
            )

    @property
    def selects(self) -> bool:
        """Whether it chooses among independent samples, once their log R is known."""
        return self.kind in ("best_of", "resample")

    @property
    def side_by_side(self) -> int:
        """z written at the same time for each that is returned."""
        return self.candidates if self.selects or self.kind == "smc" else 1


def searching_decoders(candidates: int) -> dict[str, list[Decoder]]:
    """The decoders that log R guides, by kind."""
    return {
        kind: [Decoder(name.format(candidates), kind, candidates=candidates)]
        for kind, name in _NAMES.items()
    }
