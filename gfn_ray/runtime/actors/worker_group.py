"""The actors of one run, started together and called through one place."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gfn_ray.config import JobConfig, RewardConfig, RuntimeConfig, SamplerConfig
from gfn_ray.errors import RunFailed
from gfn_ray.models.hub import ENVIRONMENT as HUB_ENVIRONMENT
from gfn_ray.models.merged import BaseAdapter
from gfn_ray.policy.adapter import Adapter
from gfn_ray.runtime.actors.label_actor import LabelRewardActor
from gfn_ray.runtime.actors.learner_actor import LearnerActor
from gfn_ray.runtime.actors.replay_actor import ReplayActor
from gfn_ray.runtime.actors.reward_actor import RewardActor
from gfn_ray.runtime.actors.sampler_actor import SamplerActor
from gfn_ray.runtime.profiling.work_log import CallLog, timed
from gfn_ray.runtime.resources.cluster import cores_by_machine, free_room
from gfn_ray.runtime.resources.placement import Placement
from gfn_ray.runtime.resources.threads import ThreadPlan
from gfn_ray.runtime.supervision.calls import POLL_SECONDS, ChangesState, PendingCalls
from gfn_ray.runtime.supervision.failures import (
    ActorDied,
    ActorLost,
    DataLost,
    about_room,
    making,
    value_of,
)
from gfn_ray.runtime.supervision.supervisor import Supervisor, late
from gfn_ray.runtime.supervision.worker import RemoteCall, Worker
from gfn_ray.sampling.environment import thread_environment, vllm_environment
from gfn_ray.tasks.task import TaskData

_LEARNER = "the learner"


@dataclass(frozen=True)
class Deployment:
    """Where actors with models go, and what they merge into the model before they use it."""

    device: str
    placement: Placement
    base: BaseAdapter | None


@dataclass(frozen=True)
class WorkerGroup:
    """Workers by kind. Their names in errors and logs are "sampler 0" and so on.

    threads: of each actor with a model. log: of every call, if the run is profiled.
    """

    config: JobConfig
    supervisor: Supervisor
    samplers: list[Worker]
    rewards: list[Worker]
    replay: Worker
    learner: Worker
    threads: ThreadPlan
    log: CallLog | None = None

    @staticmethod
    def start(
        config: JobConfig,
        data: TaskData,
        deployment: Deployment,
        replay_dir: Path,
        supervisor: Supervisor,
    ) -> WorkerGroup:
        """Starts every actor and returns once each has loaded its model.

        replay_dir: where replay is kept; a path of this machine, so replay runs on it.
        """
        device, placement = deployment.device, deployment.placement
        # Ray leaves GPUs visible to actors that reserved none, and vLLM would use one.
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
        base = _put(deployment.base)
        support = _put(data.support)
        queries = _put([*data.train, *data.held_out])
        log = CallLog() if config.profile.seconds else None
        threads = _plan(config, placement)
        places = count()

        def worker(
            name: str,
            kind: type,
            section: SamplerConfig | RewardConfig,
            *given: Any,
        ) -> Worker:
            vllm = section is config.sampler and config.sampler.backend == "vllm"
            own = vllm_environment(device) if vllm else {}
            options = _resources(config, device, _gpus(section)) | placement.options(next(places))
            remote = _remote(kind, log)

            def create() -> Any:
                environment = _environment(threads.of(name), own | hidden)
                actor = remote.options(**options, runtime_env=environment)
                return actor.remote(config, device, base, support, *given)

            return Worker(name, create)

        def learner() -> Worker:
            remote = _remote(LearnerActor, log)
            resources = _resources(config, device, config.learner.gpus)
            own, *others = (
                resources | placement.options(next(places)) for _ in range(config.learners)
            )

            def create() -> Any:
                environment = _environment(threads.of(_LEARNER), hidden)
                ranks = [one | {"runtime_env": environment} for one in others]
                actor = remote.options(**own, runtime_env=environment)
                return actor.remote(config, device, base, support, queries, ranks)

            return Worker(_LEARNER, create)

        reward_kind = RewardActor if data.labels is None else LabelRewardActor
        replay = _remote(ReplayActor, log).options(
            num_cpus=0,
            runtime_env=_environment(1),
            scheduling_strategy=NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=False
            ),
        )
        workers = WorkerGroup(
            config,
            supervisor,
            [
                worker(name, SamplerActor, config.sampler, queries, data.tool)
                for name in _samplers(config)
            ],
            [
                worker(name, reward_kind, config.reward, data.reward, queries, data.tool)
                for name in _rewards(config)
            ],
            Worker("replay", lambda: replay.remote(config, replay_dir)),
            learner(),
            threads,
            log,
        )
        others = [*workers.rewards, workers.replay, workers.learner]
        # vLLM sizes its cache by the free GPU memory, so the others load first.
        together = [[*others, *workers.samplers]]
        vllm = config.sampler.backend == "vllm"
        waves = [others, workers.samplers] if device == "cuda" and vllm else together
        for wave in waves:
            load(config.runtime, supervisor, wave)
        return workers

    @property
    def all(self) -> list[Worker]:
        """All workers, in the order in which a trajectory meets them."""
        return [*self.samplers, *self.rewards, self.replay, self.learner]

    @property
    def with_models(self) -> list[Worker]:
        return [*self.samplers, *self.rewards, self.learner]

    def calls(self) -> PendingCalls:
        """Returns a new set of calls of these actors, waited for together."""
        return PendingCalls(self.config.runtime, self.supervisor, self.log)

    def ask(
        self,
        worker: Worker,
        what: str,
        remote_call: RemoteCall,
        *,
        changes_state: ChangesState = False,
    ) -> Any:
        """Makes one call and waits for its value; see PendingCalls.make."""
        calls = self.calls()
        call = calls.make(worker, what, remote_call, changes_state=changes_state)
        calls.run_all()
        return call.result()

    def ask_each(
        self, workers: Sequence[Worker], what: str, remote_call: RemoteCall
    ) -> dict[str, Any]:
        """Makes the same call on several workers at once; returns values by worker name."""
        calls = self.calls()
        made = {worker.name: calls.make(worker, what, remote_call) for worker in workers}
        calls.run_all()
        return {name: call.result() for name, call in made.items()}

    def put(self, value: Any) -> Any:
        """Puts a value into the object store; returns its reference."""
        return _put(value)

    def adapter(self) -> Adapter:
        """The learner's weights in full precision, as the newest published version; no update may
        have followed that."""
        adapter: Adapter = self.ask(
            self.learner, "hand over its adapter", lambda actor: actor.adapter.remote()
        )
        return adapter

    def share_adapter(self) -> Any:
        """Puts that into the object store; returns its reference. What the learner published lies
        on its own node and is lost with it; this lies here, for whoever cannot publish again."""
        return self.put(self.adapter())

    def restore_learner(self, state: Any, version: int) -> None:
        """Restores the learner of an earlier process; it publishes this version next."""

        def restore(actor: Any) -> Any:
            return actor.restore.remote(state, version)

        self.ask(self.learner, "restore its state", restore)
        self.learner.saved(restore)

    def save_learner(self) -> Any:
        """Returns the learner's current state, from which a successor will start. It is kept in
        this process, because the object store can lose it with a node."""
        state = self.ask(self.learner, "hand over its state", lambda actor: actor.state.remote())
        self.learner.saved(lambda actor: actor.restore.remote(state))
        return state


def _samplers(config: JobConfig) -> list[str]:
    return [f"sampler {i}" for i in range(config.samplers)]


def _rewards(config: JobConfig) -> list[str]:
    return [f"reward actor {i}" for i in range(config.reward_actors)]


def _plan(config: JobConfig, placement: Placement) -> ThreadPlan:
    samplers = _samplers(config)
    asked = {
        **dict.fromkeys(samplers, config.sampler.threads),
        **dict.fromkeys(_rewards(config), config.reward.threads),
        _LEARNER: config.learner.threads if config.learners == 1 else _threads_a_rank(config),
    }
    in_turn = config.max_staleness == 0
    machines = dict(zip(asked, placement.machines(), strict=False))  # further learners come last
    return ThreadPlan(asked, samplers, machines, cores_by_machine(), in_turn=in_turn)


def _threads_a_rank(config: JobConfig) -> int:
    """Threads of each of several learners, which must have the same number for the same bits."""
    asked = config.learner.threads
    return 1 if asked == "auto" else asked


def _remote(kind: type, log: CallLog | None) -> Any:
    """The class as a Ray actor; its actors log their work if there is a log."""
    return ray.remote(kind if log is None else timed(kind))


def _put(value: Any) -> Any:
    with making("the object store", "hold the data that actors share"):
        return ray.put(value)


def load(config: RuntimeConfig, supervisor: Supervisor, workers: list[Worker]) -> None:
    """Makes these actors load their models in parallel and waits for all. An actor whose process
    is killed is started again; one that raises is not, because it would raise again."""
    deadline = time.monotonic() + config.start_timeout_s
    try:
        loading = {worker.start(): worker for worker in workers}
        while not all(worker.handle for worker in workers):
            supervisor.attend()
            watched = [*loading, *supervisor.references]
            done = ray.wait(watched, timeout=POLL_SECONDS)[0] if watched else []
            if not watched:  # every missing actor is backing off
                time.sleep(POLL_SECONDS)
            for ref in done:
                if (worker := loading.pop(ref, None)) is not None:
                    _first_loaded(worker, ref, supervisor)
            if loading and time.monotonic() > deadline:
                late_one = next(iter(loading.values()))
                raise RunFailed(late(late_one.name, "load its model", config, "start_timeout_s"))
    except (ActorLost, DataLost, RunFailed) as error:
        free = f" (free on the Ray cluster: {free_room()})" if about_room(error) else ""
        raise RunFailed(f"{error}{free}") from error


def _first_loaded(worker: Worker, loading: Any, supervisor: Supervisor) -> None:
    try:
        remark = value_of(loading, worker.name, "load its model")
    except ActorDied as death:
        supervisor.replace(worker, str(death))
        return
    worker.up()
    if remark:
        supervisor.observe(remark)


def _gpus(section: SamplerConfig | RewardConfig) -> float:
    return section.reserved_gpus if isinstance(section, SamplerConfig) else section.gpus


def _resources(config: JobConfig, device: str, gpus: float) -> dict[str, Any]:
    return {
        "num_cpus": config.runtime.cpus_per_actor,
        "num_gpus": gpus if device == "cuda" else 0,
    }


def _environment(threads: int, extra: dict[str, str] | None = None) -> dict[str, Any]:
    hub = {name: os.environ[name] for name in HUB_ENVIRONMENT if name in os.environ}
    return {"env_vars": {**thread_environment(threads), **hub, **(extra or {})}}
