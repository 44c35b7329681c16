"""A warm start: likelihood updates on known good z, before the objective's own.

Runs in the learner, one call an update, while nothing else is under way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from gfn_ray.config import JobConfig
from gfn_ray.errors import UserError
from gfn_ray.learners.learner import SKIPPED
from gfn_ray.runs.bad_batches import BadBatch, BadBatches
from gfn_ray.runs.batches import shuffled_batches
from gfn_ray.runtime.actors.fleet import Fleet
from gfn_ray.seeds import Stream, seed_of
from gfn_ray.tasks.references import reference_trajectories
from gfn_ray.tasks.task import TaskData
from gfn_ray.trajectory import Trajectory


def warm_start_references(config: JobConfig, data: TaskData) -> list[Trajectory]:
    """The z to be learned from. Raises UserError where a warm start is asked of none."""
    if not config.warm_start.steps:
        return []
    references = reference_trajectories(data.train, data.support)
    if not references:
        raise UserError(
            f"warm_start.steps asks for {config.warm_start.steps} updates on known good z, and no "
            "training query of this task has one within the support; set it to 0"
        )
    return references


def warm_start(
    config: JobConfig,
    references: list[Trajectory],
    fleet: Fleet,
    bad: BadBatches,
    observe: Callable[[int, dict[str, float]], None],
) -> None:
    """Runs `warm_start.steps` updates; `observe` gets each one's number, from 1, and metrics.
    A batch that cannot be learned from is no update."""
    order = seed_of(Stream.WARM_START_ORDER, config.seed)
    batches = shuffled_batches(references, config.warm_start.batch, order)
    step = 0
    while step < config.warm_start.steps:
        # Each query's z side by side, so that the learner packs them behind one prompt.
        batch = sorted(next(batches), key=lambda t: t.query_id)
        wires = [t.to_wire() for t in batch]
        metrics = fleet.ask(
            fleet.learner,
            "apply a likelihood update",
            partial(_fit, wires),
            changes_state=lambda metrics: SKIPPED not in metrics,
        )
        if SKIPPED in metrics:
            bad.dropped(BadBatch("warm-start update", metrics[SKIPPED], batch, metrics["known"]))
            continue
        bad.usable("warm-start update")
        step += 1
        observe(step, metrics)
        # The last one, too: a successor would repeat what is not saved with fewer threads.
        if step % config.checkpoint.every == 0 or step == config.warm_start.steps:
            fleet.save_learner()


def _fit(wires: list[dict[str, Any]], learner: Any) -> Any:
    return learner.fit.remote(wires)
