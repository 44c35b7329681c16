"""The actors of one run: started together, awaited together, ended together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray

from gfn_ray.config import JobConfig
from gfn_ray.runtime import actors
from gfn_ray.runtime.calls import PendingCalls
from gfn_ray.sampling.environment import thread_environment, vllm_environment
from gfn_ray.tasks.task import TaskData


@dataclass(frozen=True)
class Fleet:
    """Handles by kind. Names, as errors and logs use them, are "sampler 0" and so on."""

    samplers: list[Any]
    rewards: list[Any]
    replay: Any
    learner: Any

    @staticmethod
    def start(config: JobConfig, data: TaskData, device: str) -> Fleet:
        """Starts every actor and returns once each has loaded its model."""
        support = ray.put(data.support.to_wire())
        queries = ray.put([query.to_wire() for query in (*data.train, *data.held_out)])
        sampler = ray.remote(actors.SamplerActor).options(
            **_resources(config, device, config.sampler.gpus),
            runtime_env=_environment(config.sampler.threads, vllm_environment(device)),
        )
        reward = ray.remote(actors.RewardActor).options(
            **_resources(config, device, config.reward.gpus),
            runtime_env=_environment(config.reward.threads),
        )
        learner = ray.remote(actors.LearnerActor).options(
            **_resources(config, device, config.learner.gpus),
            runtime_env=_environment(config.learner.threads),
        )
        replay = ray.remote(actors.ReplayActor).options(num_cpus=0, runtime_env=_environment(1))
        fleet = Fleet(
            [sampler.remote(config, device, support, queries) for _ in range(config.samplers)],
            [reward.remote(config, device, queries) for _ in range(config.reward_actors)],
            replay.remote(config),
            learner.remote(config, device, support, queries),
        )
        starting = PendingCalls(config.runtime.start_timeout_s, "runtime.start_timeout_s")
        for name, actor in fleet.named().items():
            starting.add(actor.ready.remote(), name, "start", lambda _: None)
        starting.run_all()
        return fleet

    def named(self) -> dict[str, Any]:
        return {
            **{f"sampler {i}": actor for i, actor in enumerate(self.samplers)},
            **{f"reward actor {i}": actor for i, actor in enumerate(self.rewards)},
            "replay": self.replay,
            "learner": self.learner,
        }

    def stop(self) -> None:
        for actor in self.named().values():
            ray.kill(actor)


def _resources(config: JobConfig, device: str, gpus: float) -> dict[str, float]:
    return {
        "num_cpus": config.runtime.cpus_per_actor,
        "num_gpus": gpus if device == "cuda" else 0,
    }


def _environment(threads: int, extra: dict[str, str] | None = None) -> dict[str, Any]:
    return {"env_vars": {**thread_environment(threads), **(extra or {})}}
