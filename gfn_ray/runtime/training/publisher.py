"""Publishes the learner's weights to samplers and evaluation."""

from __future__ import annotations

from typing import Any

from gfn_ray.runtime.actors.worker_group import WorkerGroup
from gfn_ray.runtime.supervision.calls import PendingCalls
from gfn_ray.runtime.training.pacing import Pacing


class Publisher:
    """adapter: object reference of the newest version; None before the first. step: the update
    after which it was published."""

    def __init__(self, workers: WorkerGroup, calls: PendingCalls, pacing: Pacing) -> None:
        self._workers = workers
        self._calls = calls
        self._pacing = pacing
        self.adapter: Any = None
        self.step = 0

    def took(self, adapter: Any, version: int) -> None:
        """Hands out the weights that an update returned. This process owns the reference, so they
        outlive the learner's process."""
        self.adapter = adapter
        self.step = self._pacing.step
        self._pacing.published(version)

    async def publish(self) -> None:
        """Publishes the learner's current weights as the next version, without an update."""
        self._pacing.will_publish()
        adapter, version = await self._calls.make(
            self._workers.learner,
            "publish its weights",
            lambda actor: actor.publish.options(num_returns=2).remote(),
            changes_state=True,
        )
        self.took(adapter, version)

    async def lost(self, adapter: Any) -> None:
        """Handles an adapter lost from the object store: republishes if it was the newest."""
        if adapter is self.adapter and not self._pacing.publishing:
            await self.publish()
