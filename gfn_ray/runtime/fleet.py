"""The actors of one run: started together, awaited together, ended together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray

from gfn_ray.config import JobConfig
from gfn_ray.errors import RunFailed
from gfn_ray.runtime import actors
from gfn_ray.runtime.calls import PendingCalls
from gfn_ray.runtime.label_actor import LabelRewardActor
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
        # Ray leaves GPUs visible to actors that reserved none, and vLLM would take one.
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
        support = ray.put(data.support.to_wire())
        queries = ray.put([query.to_wire() for query in (*data.train, *data.held_out)])
        sampler = ray.remote(actors.SamplerActor).options(
            **_resources(config, device, config.sampler.gpus),
            runtime_env=_environment(config.sampler.threads, vllm_environment(device) | hidden),
        )
        reward_kind = actors.RewardActor if data.labels is None else LabelRewardActor
        reward = ray.remote(reward_kind).options(
            **_resources(config, device, config.reward.gpus),
            runtime_env=_environment(config.reward.threads, hidden),
        )
        learner = ray.remote(actors.LearnerActor).options(
            **_resources(config, device, config.learner.gpus),
            runtime_env=_environment(config.learner.threads, hidden),
        )
        replay = ray.remote(actors.ReplayActor).options(num_cpus=0, runtime_env=_environment(1))
        fleet = Fleet(
            [
                sampler.remote(config, device, support, queries, data.tool)
                for _ in range(config.samplers)
            ],
            [
                reward.remote(config, device, support, data.reward, queries)
                for _ in range(config.reward_actors)
            ],
            replay.remote(config),
            learner.remote(config, device, support, queries),
        )
        named = fleet.named()
        first = {name: actor for name, actor in named.items() if "sampler" not in name}
        # vLLM sizes its cache by what a GPU has free, so there the others load before it.
        waves = [first, named.keys() - first.keys()] if device == "cuda" else [named]
        for wave in waves:
            _load(config, {name: named[name] for name in wave})
        return fleet

    def named(self) -> dict[str, Any]:
        return {
            **{f"sampler {i}": actor for i, actor in enumerate(self.samplers)},
            **{f"reward actor {i}": actor for i, actor in enumerate(self.rewards)},
            "replay": self.replay,
            "learner": self.learner,
        }


def _load(config: JobConfig, named: dict[str, Any]) -> None:
    """Has these actors load their models at the same time, and waits for all."""
    loading = PendingCalls(config.runtime.start_timeout_s, "runtime.start_timeout_s")
    for name, actor in named.items():
        loading.add(actor.load.remote(), name, "load its model", lambda _: None)
    try:
        loading.run_all()
    except RunFailed as error:
        free = ", ".join(f"{v:g} {k}" for k, v in ray.available_resources().items() if v)
        raise RunFailed(f"{error} (free on the Ray cluster: {free or 'nothing'})") from error


def _resources(config: JobConfig, device: str, gpus: float) -> dict[str, float]:
    return {
        "num_cpus": config.runtime.cpus_per_actor,
        "num_gpus": gpus if device == "cuda" else 0,
    }


def _environment(threads: int, extra: dict[str, str] | None = None) -> dict[str, Any]:
    return {"env_vars": {**thread_environment(threads), **(extra or {})}}
