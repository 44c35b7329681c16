"""On-policy samples of training queries for a round of a schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from gfn_ray.runtime.actors.worker_group import WorkerGroup
from gfn_ray.seeds import Seed
from gfn_ray.storage.trajectories import unpack_trajectories
from gfn_ray.trajectory import Query, Trajectory


def on_policy_samples(
    workers: WorkerGroup,
    adapter: Any,
    ids: Sequence[str],
    samples: int,
    seed: Callable[[int], Seed],
    what: str,
    more: Mapping[str, Query] | None = None,
) -> list[Trajectory]:
    """Unscored samples of these queries from the first sampler, one call after another.

    samples: of each query. seed: of the call that begins with this query. what: names the call in
    errors. more: queries that the actors were not made with, by id, if these are such.
    """
    size = workers.config.sampler.queries_per_call
    calls, found = workers.calls(), list[Trajectory]()

    async def hand_over(start: int) -> None:
        batch = list(ids[start : start + size])
        along = [] if more is None else [more[one] for one in batch]
        sample = partial(_sample, adapter, batch, seed(start), samples, along)
        block, _ = await calls.make(workers.samplers[0], what, sample)
        found.extend(unpack_trajectories(await calls.fetch(block, "hand over samples")))

    for start in range(0, len(ids), size):
        calls.start(hand_over(start))
        calls.run_all()
    return found


def _sample(
    adapter: Any, ids: list[str], seed: Seed, samples: int, more: list[Query], actor: Any
) -> Any:
    return actor.sample.options(num_returns=2).remote(adapter, ids, seed, False, samples, more)
