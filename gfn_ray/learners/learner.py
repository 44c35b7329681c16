"""What trains a policy, as the actor around it sees it, and what an update gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gfn_ray.learners.training_state import State
from gfn_ray.policy.adapter import Adapter
from gfn_ray.policy.log_q import TrajectoryGroup

SKIPPED = "skipped"
"""Key of the reason in a skipped update's wire form; no metric of an update has this name."""


@dataclass(frozen=True)
class Update:
    """What one update did. losses [B]: mean squared residual of each trajectory, in the
    order of the batch; replay may turn them into priorities."""

    metrics: dict[str, float]
    losses: npt.NDArray[np.float32]


@dataclass(frozen=True)
class SkippedUpdate:
    """An update that was not applied, since a number in it is NaN or infinite. Parameters,
    optimizer and schedule are as they were.

    reason: which number, as in "the loss is nan". known: by name, what the update found out of
    each trajectory [B], in the order of the batch.
    """

    reason: str
    known: dict[str, npt.NDArray[Any]]

    def to_wire(self) -> dict[str, Any]:
        return {SKIPPED: self.reason, "known": self.known}


@dataclass(frozen=True)
class PolicyScores:
    """log q of trajectories without gradient. log_q [B]: whole z, stop included.
    log_pf [B]: its content tokens only, as the sampling engine reports them.
    log_reference [B]: what the objective adds to log R/T, log p_ref(z) or 0."""

    log_q: npt.NDArray[np.float64]
    log_pf: npt.NDArray[np.float64]
    log_reference: npt.NDArray[np.float64]


class Learner(Protocol):
    """A policy and its optimizer, with a policy version that only ever goes up.

    Example, one update whose weights are published:

        learner.load(initial_adapter)
        update = learner.step(groups)
        if isinstance(update, SkippedUpdate):
            raise RunFailed(update.reason)
        adapter = learner.publish()
    """

    @property
    def step_count(self) -> int:
        """Updates applied so far."""
        ...

    def load(self, adapter: Adapter) -> None:
        """Takes over the weights of an adapter of the policy's shape."""
        ...

    def step(self, groups: Sequence[TrajectoryGroup]) -> Update | SkippedUpdate:
        """One update on scored trajectories, or none where a number in it is not finite: then
        everything is as it was before."""
        ...

    def score(self, groups: Sequence[TrajectoryGroup]) -> PolicyScores:
        """log q under the current weights, without gradient."""
        ...

    def score_under(self, adapter: Adapter, groups: Sequence[TrajectoryGroup]) -> PolicyScores:
        """The same under the weights of another adapter; the learner's own stay what they are."""
        ...

    def publish(self) -> Adapter:
        """The current weights as the next version; the first call gives version 0."""
        ...

    def state(self) -> State:
        """Copies of all that later updates and publications depend on."""
        ...

    def restore(self, state: State, version: int | None = None) -> None:
        """Becomes the learner of the same settings that state() described, bit for bit.

        version: of the next publication, where it is not that learner's.
        """
        ...
