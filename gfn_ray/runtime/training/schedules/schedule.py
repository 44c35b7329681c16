"""Training schedules: what happens besides updates by the objective, and when.

`Plain` makes all updates in one pass; `EM` (em.py) splits them into rounds, and `STaR` (star.py)
has rounds in place of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from gfn_ray.evaluation.result import Baseline, Evaluation
from gfn_ray.runtime.training.controller import Controller, StepReport
from gfn_ray.serving.tuned_labels import TunedLabels

AfterRound = Callable[[int, dict[str, float]], None]
"""Called after a round with its number, from 1, and metrics. No call is in flight; replay is
empty."""


@dataclass(frozen=True)
class BaselineMethod:
    """A method to compare the policy with. measure: runs it, for seconds or minutes."""

    name: str
    measure: Callable[[], Baseline]


class Schedule(Protocol):
    """Example: `schedule.train(controller, observe, after_round)` makes all updates of a run and
    calls `observe` after each."""

    def baseline_methods(self) -> Iterator[BaselineMethod]:
        """Methods to measure before training."""
        ...

    def train(
        self,
        controller: Controller,
        observe: Callable[[StepReport], None],
        after_round: AfterRound,
    ) -> None: ...

    @property
    def learns_apart(self) -> bool:
        """Whether training changes policy or reward beside the updates by the objective."""
        ...

    @property
    def round_name(self) -> str:
        """What people call what a round ends with, as in "M-step 2"."""
        ...

    def tuned(self, after: Evaluation) -> TunedLabels | None:
        """The label model to serve with the policy. after: the final evaluation."""
        ...

    def state(self) -> Any:
        """The state kept in a checkpoint; None if the schedule has no rounds."""
        ...

    def restore(self, state: Any) -> None:
        """Continues after the rounds recorded by state()."""
        ...


class Plain:
    """All updates in one pass."""

    learns_apart = False
    round_name = "round"

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
        """Does nothing: there is no state."""
