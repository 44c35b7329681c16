"""Placement of actors with models on a cluster: reserved for all at once, or left to Ray.

Owns the placement group, with one bundle per actor that a restarted actor reuses. Replay is not
part of it: it runs on the controller's machine and writes to its disk.
"""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.util import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from gfn_ray.config import JobConfig
from gfn_ray.errors import RunFailed

# Longest single poll of the group; bounds how late an interrupt is noticed.
_LOOK_SECONDS = 0.5


def bundles(config: JobConfig, device: str) -> list[dict[str, float]]:
    """What each actor with a model reserves: samplers, then reward actors, then the learner."""
    gpus = [
        *[config.sampler.reserved_gpus] * config.samplers,
        *[config.reward.gpus] * config.reward_actors,
        config.learner.gpus,
    ]
    cpus = {"CPU": config.runtime.cpus_per_actor}
    return [cpus | ({"GPU": one} if device == "cuda" else {}) for one in gpus]


class Placement:
    """Gives each actor its own bundle; does nothing if runtime.placement is none."""

    def __init__(self, config: JobConfig, device: str) -> None:
        self._group: Any = None
        setting = config.runtime.placement
        if setting is None:
            return
        self._group = placement_group(bundles(config, device), strategy=setting.upper())
        deadline = time.monotonic() + config.runtime.start_timeout_s
        while not self._group.wait(_LOOK_SECONDS):
            if time.monotonic() > deadline:
                free = ", ".join(f"{v:g} {k}" for k, v in ray.available_resources().items() if v)
                raise RunFailed(
                    f"Ray found no room for all actors within {config.runtime.start_timeout_s:g} s "
                    f"(free on the Ray cluster: {free or 'nothing'}); wait for other jobs, raise "
                    "runtime.start_timeout_s, or set runtime.placement to none"
                )

    def options(self, index: int) -> dict[str, Any]:
        """Ray options of the actor at this index of `bundles`."""
        if self._group is None:
            return {}
        return {
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=index
            )
        }
