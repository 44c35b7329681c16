"""The interface of a learner, and the results of its updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # the driver imports this module without torch
    from gfn_ray.learners.training_state import State
    from gfn_ray.policy.adapter import Adapter
    from gfn_ray.policy.log_q import TrajectoryGroup


@dataclass(frozen=True)
class Update:
    """The result of one update. losses [B]: mean squared residual of each trajectory, or what else
    the loss is a mean of, in batch order; replay may turn them into priorities."""

    metrics: dict[str, float]
    losses: npt.NDArray[np.float32]


@dataclass(frozen=True)
class SkippedUpdate:
    """An update that was skipped because a number in it is NaN or infinite. Parameters, optimizer
    and schedule are unchanged.

    reason: which number, as in "the loss is nan". known: values computed for each trajectory [B],
    by name, in batch order.
    """

    reason: str
    known: dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class PolicyScores:
    """log q of trajectories, without gradient. log_q [B]: whole z, with the stop. log_pf [B]:
    content tokens only, as the sampling engine reports them. log_reference [B]: what the objective
    adds to log R/T, log p_ref(z) or 0."""

    log_q: npt.NDArray[np.float64]
    log_pf: npt.NDArray[np.float64]
    log_reference: npt.NDArray[np.float64]


class Learner(Protocol):
    """A policy and its optimizer, with an increasing policy version.

    Example, one update whose weights are published:

        learner.load(initial_adapter)
        update = learner.step(groups)
        if isinstance(update, SkippedUpdate):
            raise RunFailed(update.reason)
        adapter = learner.publish()
    """

    @property
    def step_count(self) -> int:
        """Number of updates applied."""
        ...

    def load(self, adapter: Adapter) -> None:
        """Loads the weights of an adapter of the policy's shape."""
        ...

    def step(self, groups: Sequence[TrajectoryGroup]) -> Update | SkippedUpdate:
        """Makes one update on scored trajectories. Skips it, and changes nothing, if a number in it
        is not finite."""
        ...

    def score(self, groups: Sequence[TrajectoryGroup]) -> PolicyScores:
        """Computes log q under the current weights, without gradient."""
        ...

    def log_reference(self, groups: Sequence[TrajectoryGroup]) -> npt.NDArray[np.float64]:
        """log p of whole z under the model below the adapter [B], within the same support."""
        ...

    def token_log_pf(
        self, adapter: Adapter, groups: Sequence[TrajectoryGroup]
    ) -> npt.NDArray[np.float64]:
        """log q of every content token, z after z, under another adapter; the learner's weights
        stay unchanged."""
        ...

    def publish(self) -> Adapter:
        """Returns the current weights as the next version, in the sampling engine's precision; the
        first call gives version 0."""
        ...

    def adapter(self) -> Adapter:
        """Returns the current weights in full precision, as the version last published."""
        ...

    def state(self) -> State:
        """Copies of everything later updates and publications depend on."""
        ...

    def restore(self, state: State, version: int | None = None) -> None:
        """Restores what state() returned, bit for bit; the settings must be the same.

        version: of the next publication, if it differs from the stored one.
        """
        ...
