"""Likelihood updates on given z: SFT on demonstrations, before the objective's, and STaR's.

Runs in the learner, one call per update, with nothing else in flight.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from gfn_ray.config import JobConfig
from gfn_ray.errors import UserError
from gfn_ray.learners.learner import SkippedUpdate
from gfn_ray.runs.batches import shuffled_batches
from gfn_ray.runs.nonfinite_batches import NonFiniteBatch, NonFiniteBatches
from gfn_ray.runtime.actors.worker_group import WorkerGroup
from gfn_ray.seeds import Seed
from gfn_ray.storage.trajectories import pack_trajectories
from gfn_ray.tasks.demonstrations import demonstration_trajectories
from gfn_ray.tasks.task import TaskData
from gfn_ray.trajectory import Trajectory


def sft_demonstrations(config: JobConfig, data: TaskData) -> list[Trajectory]:
    """The demonstrations for SFT, empty if it is off. Raises UserError if there are none."""
    if not config.sft.steps:
        return []
    demonstrations = demonstration_trajectories(data.train, data.support)
    if not demonstrations:
        raise UserError(
            f"sft.steps asks for {config.sft.steps} updates on demonstrations, but no "
            "training query of this task has one within the support; set it to 0"
        )
    return demonstrations


def sft(
    config: JobConfig,
    steps: int,
    demonstrations: list[Trajectory],
    order: Seed,
    workers: WorkerGroup,
    bad: NonFiniteBatches,
    observe: Callable[[int, dict[str, float]], None],
) -> None:
    """Runs so many updates; `observe` gets each one's number, from 1, and metrics.
    Skipped updates do not count. order: seed of the batches."""
    batches = shuffled_batches(demonstrations, config.sft.batch, order)
    step = 0
    while step < steps:
        # Group by query, so that the learner packs each query's z behind one prompt.
        batch = sorted(next(batches), key=lambda t: t.query_id)
        block = pack_trajectories(batch)
        metrics = workers.ask(
            workers.learner,
            "apply a likelihood update",
            partial(_fit, block),
            changes_state=lambda metrics: not isinstance(metrics, SkippedUpdate),
        )
        if isinstance(metrics, SkippedUpdate):
            bad.dropped(NonFiniteBatch("SFT update", metrics.reason, batch, metrics.known))
            continue
        bad.usable("SFT update")
        step += 1
        observe(step, metrics)
        # Also after the last: a successor would repeat unsaved updates with fewer threads.
        if step % config.checkpoint.every == 0 or step == steps:
            workers.save_learner()


def _fit(block: bytes, learner: Any) -> Any:
    return learner.fit.remote(block)
