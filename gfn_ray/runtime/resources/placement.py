"""Room for all actors with models, reserved before any of them starts.

Owns the placement group, with one bundle per actor that a restarted actor reuses. The group is
also what an autoscaler sees: it adds machines until every bundle has a place. Replay is not part
of it: it runs on the controller's machine and writes to its disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from gfn_ray.config import JobConfig
from gfn_ray.errors import RunFailed

# Longest single poll of the group; bounds how late an interrupt is noticed.
_LOOK_SECONDS = 0.5
# Waiting for longer than this is worth a line.
_SOON_SECONDS = 2.0


def bundles(config: JobConfig, device: str) -> list[dict[str, float]]:
    """What each actor with a model reserves: samplers, then reward actors, then learners."""
    gpus = [
        *[config.sampler.reserved_gpus] * config.samplers,
        *[config.reward.gpus] * config.reward_actors,
        *[config.learner.gpus] * config.learners,
    ]
    cpus = {"CPU": config.runtime.cpus_per_actor}
    return [cpus | ({"GPU": one} if device == "cuda" else {}) for one in gpus]


class Placement:
    """Gives each actor its own bundle. group: of Ray, with every bundle in its place."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def options(self, index: int) -> dict[str, Any]:
        """Ray options of the actor at this index of `bundles`."""
        return {
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=index
            )
        }

    def machines(self) -> list[str]:
        """Ray's id of the machine of each bundle."""
        found: dict[int, str] = placement_group_table(self._group)["bundles_to_node_id"]
        return [found[index] for index in range(len(found))]


@contextmanager
def reserved(config: JobConfig, device: str, say: Callable[[str], None]) -> Iterator[Placement]:
    """Waits until there is room for every actor and keeps it until the end.

    say: told once what is missing. Raises RunFailed after runtime.start_timeout_s.
    """
    wanted, limit = bundles(config, device), config.runtime.start_timeout_s
    group = placement_group(wanted, strategy=config.runtime.placement.upper())
    try:
        began, told = time.monotonic(), False
        while not group.wait(_LOOK_SECONDS):
            waited = time.monotonic() - began
            if waited > limit:
                raise RunFailed(
                    f"Ray found no room for all actors within {limit:g} s: {_missing(wanted)}; "
                    "wait for other jobs or machines, raise runtime.start_timeout_s, or lower what "
                    "the run needs (samplers, reward_actors, sampler.gpus, reward.gpus, "
                    "learner.gpus, runtime.cpus_per_actor)"
                )
            if waited > _SOON_SECONDS and not told:
                told = True
                say(f"waiting up to {limit:g} s for room on the Ray cluster: {_missing(wanted)}")
        if told:
            say(f"found room after {time.monotonic() - began:.0f} s")
        yield Placement(group)
    finally:
        remove_placement_group(group)


def _missing(wanted: list[dict[str, float]]) -> str:
    """Compares what the actors need with what the cluster has, and how much of that is free."""
    whole, free = ray.cluster_resources(), ray.available_resources()
    kinds = {kind: sum(one.get(kind, 0.0) for one in wanted) for kind in wanted[0]}
    return ", ".join(_of_kind(kind, need, whole, free) for kind, need in kinds.items())


def _of_kind(kind: str, need: float, whole: Mapping[str, float], free: Mapping[str, float]) -> str:
    has, left = whole.get(kind, 0.0), free.get(kind, 0.0)
    return f"{need:g} {kind}s needed, {has:g} there, {left:g} of them free"
