"""What happens in training besides updates by the objective, and when.

A run goes through its updates in one piece, `Plain`, or in rounds, as `EM` (em.py) does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from gfn_ray.evaluation.result import Baseline, Evaluation
from gfn_ray.runtime.training.controller import Controller, StepReport
from gfn_ray.serving.tuned_labels import TunedLabels

AfterRound = Callable[[int, dict[str, float]], None]
"""Gets the number of a round, from 1, and its metrics, while nothing is under way and replay is
empty."""


@dataclass(frozen=True)
class BaselineMethod:
    """Something to be measured beside the policy. measure: does it, in some seconds or minutes."""

    name: str
    measure: Callable[[], Baseline]


class Schedule(Protocol):
    """Example: `schedule.train(controller, observe, after_round)` makes all updates of a run, and
    calls `observe` after each."""

    def baseline_methods(self) -> Iterator[BaselineMethod]:
        """Before training."""
        ...

    def train(
        self,
        controller: Controller,
        observe: Callable[[StepReport], None],
        after_round: AfterRound,
    ) -> None: ...

    @property
    def tunes_reward(self) -> bool:
        """Whether what scores the policy is another after training."""
        ...

    def tuned(self, after: Evaluation) -> TunedLabels | None:
        """What is served beside the policy. after: measured at the end."""
        ...

    def state(self) -> Any:
        """What a checkpoint keeps of it, where rounds are part of it; None else."""
        ...

    def restore(self, state: Any) -> None:
        """Go on after the rounds that state() described."""
        ...


class Plain:
    """Every update, one after another."""

    tunes_reward = False

    def baseline_methods(self) -> Iterator[BaselineMethod]:
        yield from ()

    def train(
        self,
        controller: Controller,
        observe: Callable[[StepReport], None],
        after_round: AfterRound,
    ) -> None:
        controller.train(observe)

    def tuned(self, after: Evaluation) -> None:
        return None

    def state(self) -> None:
        return None

    def restore(self, state: None) -> None:
        """Nothing to go on with."""
