"""What runs inside the Ray actors: thin shells around engine, reward, buffer and trainer.

Each turns wire records into objects, calls plain code, and turns the result back. Calls
that move bulky records return them apart from a small `info` dict, so that the controller
can pass the records on by reference and read only the numbers. Models are loaded by `load`,
not by constructors: what a method raises reaches the controller with its own type.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray

from gfn_ray.config import JobConfig
from gfn_ray.replay.columns import from_bytes, to_bytes
from gfn_ray.rewards.reward import Reward
from gfn_ray.sampling.tools import Tool, ToolLoop
from gfn_ray.seeds import Seed, generator
from gfn_ray.support import support_from_wire
from gfn_ray.trajectory import Query, Trajectory

Wire = dict[str, Any]

# Of a call's trajectories, as many come back to the controller, for display and samples.jsonl.
FRESH_SHOWN = 4

# On-policy samples of a call by which the learner tells what weights the engine has: the error
# of what it finds falls by their square root, and their cost rises with them.
COMPARED = 16


def _load_model(config: JobConfig, dtype: str, device: str) -> Any:
    from gfn_ray.models.loading import load_causal_lm, resolve_model

    path = resolve_model(config.model)
    return load_causal_lm(path, dtype, device, config.model.trust_remote_code)


def _queries(wires: list[Wire]) -> dict[str, Query]:
    return {wire["query_id"]: Query.from_wire(wire) for wire in wires}


def _trajectories(wires: list[Wire]) -> list[Trajectory]:
    return [Trajectory.from_wire(wire) for wire in wires]


class ModelActor:
    """What actors with a model have in common. Each has OMP_NUM_THREADS threads at first."""

    def _start_threads(self) -> None:
        # torch would take no more than MKL does, which goes by the cores of the machine.
        if asked := os.environ.get("OMP_NUM_THREADS"):
            self.use_threads(int(asked))

    def use_threads(self, number: int) -> None:
        """Its kernels' threads from now on."""
        # Not torch.set_num_threads, which vLLM on CPU replaces by one that does nothing.
        from torch._C import set_num_threads

        set_num_threads(number)

    def threads(self) -> int:
        """Its kernels' threads now."""
        from torch import get_num_threads

        return get_num_threads()

    def cpu_seconds(self) -> tuple[float, str]:
        """Seconds that its process has been on a core, all threads together; and its machine."""
        return time.process_time(), ray.get_runtime_context().get_node_id()


class SamplerActor(ModelActor):
    """What samples, with the newest adapter it was handed, and the task's tool where it has one."""

    def __init__(
        self,
        config: JobConfig,
        device: str,
        support: Wire,
        queries: list[Wire],
        tool: Tool | None,
    ) -> None:
        self._config = config
        self._device = device
        self._support = support_from_wire(support)
        self._queries = _queries(queries)
        self._tool = tool

    def load(self) -> None:
        from gfn_ray.models.loading import load_tokenizer, resolve_model
        from gfn_ray.sampling.backend import start_backend

        self._start_threads()
        config = self._config
        path = resolve_model(config.model)
        loop = None
        if self._tool is not None:
            tokenizer = load_tokenizer(path, config.model.trust_remote_code)
            loop = ToolLoop(self._tool, tokenizer, self._support)
        self._engine = start_backend(config, path, self._support, device=self._device, tool=loop)

    def sample(
        self,
        adapter: Wire,
        query_ids: list[str],
        seed: Seed,
        evaluating: bool,
        on_policy: int = 0,
    ) -> tuple[list[Wire], Wire]:
        """Trajectories of each query under `adapter`, unscored: one group each.

        seed: entropy of every random choice of this call. evaluating: samples of q, and
        tempered ones, as `eval` says; otherwise an exploring group, as `sampler` says.
        on_policy: not 0 for that many samples of q instead.
        """
        from gfn_ray.policy.adapter import Adapter
        from gfn_ray.sampling.backend import SampleRequest
        from gfn_ray.sampling.exploration import (
            evaluation_plan,
            exploration_plans,
            on_policy_plan,
        )

        started = time.perf_counter()
        self._engine.load(Adapter.from_wire(adapter))
        rng = generator(seed)
        if on_policy:
            plans = [on_policy_plan(on_policy, rng) for _ in query_ids]
        elif evaluating:
            plans = [evaluation_plan(self._config.eval, rng) for _ in query_ids]
        else:
            plans = exploration_plans(self._config.sampler, len(query_ids), rng)
        queries = [self._queries[query_id] for query_id in query_ids]
        trajectories = self._engine.sample(list(map(SampleRequest, queries, plans)))
        info = {
            "tokens": sum(len(t) + 1 for t in trajectories),
            "seconds": time.perf_counter() - started,
            "tool_calls": self._engine.tool_calls,
            "tool_errors": self._engine.tool_errors,
        }
        return [t.to_wire() for t in trajectories], info


class RewardActor(ModelActor):
    """The task's target, and the frozen LM where that, or a decoder, needs one."""

    def __init__(
        self, config: JobConfig, device: str, support: Wire, reward: Reward, queries: list[Wire]
    ) -> None:
        self._config = config
        self._device = device
        self._support = support_from_wire(support)
        self._reward = reward
        self._queries = _queries(queries)
        self._model: Any = None

    def load(self) -> None:
        self._start_threads()
        self._reward.load(self._frozen_lm)

    def decode(
        self, decoder: Wire, query_ids: list[str], samples: int, seed: Seed
    ) -> tuple[list[Wire], Wire]:
        """What a decoder makes of the frozen LM: `samples` z of each query, unscored."""
        from gfn_ray.decoding.decode import decode
        from gfn_ray.decoding.decoder import Decoder

        started = time.perf_counter()
        queries = [self._queries[query_id] for query_id in query_ids]
        trajectories = decode(
            self._frozen_lm(), self._support, queries, Decoder.from_wire(decoder), samples, seed
        )
        info = {
            "tokens": sum(len(t) + 1 for t in trajectories),
            "seconds": time.perf_counter() - started,
        }
        return [t.to_wire() for t in trajectories], info

    def _frozen_lm(self) -> Any:
        if self._model is None:
            self._model = _load_model(self._config, self._config.reward.dtype, self._device)
        return self._model

    def score(self, wires: list[Wire]) -> tuple[list[Wire], Wire]:
        """The same trajectories with untempered log R at every terminable prefix. info has the
        faults of those whose log R is not finite, by their place."""
        started = time.perf_counter()
        trajectories = _trajectories(wires)
        scored = self._reward.score([(self._queries[t.query_id], t) for t in trajectories])
        return [t.to_wire() for t in scored], self._info(scored, started)

    def _info(self, scored: list[Trajectory], started: float) -> Wire:
        faults = {index: t.reward_fault for index, t in enumerate(scored)}
        return {
            "tokens": sum(len(t) for t in scored),
            "seconds": time.perf_counter() - started,
            "faults": {index: fault for index, fault in faults.items() if fault is not None},
        }


class ReplayActor:
    """The shared replay buffer, on record in a directory: what answered has survived a kill.

    call_id: of a call that may be made again, which then gets the answer of the first time.
    """

    def __init__(self, config: JobConfig, directory: Path) -> None:
        self._config = config
        self._directory = directory

    def load(self) -> None:
        """An empty buffer, or the one that an actor over the same directory left."""
        from gfn_ray.replay.store import ReplayStore

        config = self._config
        group = config.learner.trajectories_per_query
        self._store = ReplayStore(self._directory, config.replay, config.seed, group=group)

    def clear(self, call_id: str | None = None) -> None:
        """Forgets every trajectory."""
        self._store.clear(call_id)

    def add(self, wires: list[Wire], call_id: str | None = None) -> Wire:
        """Takes up scored trajectories. shown: a few of them, for people."""
        offered = _trajectories(wires)
        self._store.add(offered, call_id)
        return {
            "offered": len(offered),
            "size": len(self._store.buffer),
            "log_reward_mean": float(np.mean([t.final_log_reward for t in offered])),
            "shown": wires[:FRESH_SHOWN],
        }

    def sample(
        self, queries: int, per_query: int, version: int, call_id: str | None = None
    ) -> tuple[bytes, Wire]:
        """A batch, for LearnerActor.step, and where it came from; trajectories = 0 where nothing
        is eligible."""
        batch = self._store.sample(queries, per_query, version, call_id)
        if batch is None:
            return b"", {"trajectories": 0}
        info = {
            "trajectories": len(batch),
            "slots": batch.slots,
            "generations": batch.generations,
            "stats": self._store.buffer.stats(),
        }
        return to_bytes(batch.trajectories), info

    def newest_version(self) -> int:
        return self._store.buffer.newest_version

    def snapshot(self) -> bytes:
        """The whole buffer, for a checkpoint."""
        return self._store.snapshot()

    def update_priorities(
        self, slots: Any, generations: Any, losses: Any, call_id: str | None = None
    ) -> int:
        return self._store.update_priorities(slots, generations, losses, call_id)


class LearnerActor(ModelActor):
    """The policy being trained, and its optimizer."""

    def __init__(self, config: JobConfig, device: str, support: Wire, queries: list[Wire]) -> None:
        self._config = config
        self._device = device
        self._support = support_from_wire(support)
        self._queries = _queries(queries)

    def load(self) -> str | None:
        """What a person should know of the model, if anything."""
        from gfn_ray.packing.forward import reads_forests
        from gfn_ray.policy.adapter import add_adapter
        from gfn_ray.policy.likelihood import LikelihoodTrainer
        from gfn_ray.policy.trainer import PolicyTrainer

        self._start_threads()
        config, learner = self._config, self._config.learner
        base = _load_model(config, learner.dtype, self._device)
        model = add_adapter(base, config.policy, config.seed)
        self._trainer = PolicyTrainer(model, config, self._support)
        self._likelihood = LikelihoodTrainer(
            model,
            self._support,
            lr=config.warm_start.lr,
            max_grad_norm=learner.max_grad_norm,
            tokens_per_forward=learner.tokens_per_forward,
        )
        if reads_forests(model):
            return None
        return (
            f"--model.name: {type(base).__name__} does not take the attention mask of a tree, so "
            "trajectories cannot share what they have in common: updates and rewards are slower"
        )

    def start_from(self, adapter: Wire) -> None:
        """Take over the weights of an adapter of the policy's shape."""
        from gfn_ray.policy.adapter import Adapter, put_adapter

        put_adapter(self._trainer.model, Adapter.from_wire(adapter))

    def publish(self) -> tuple[Wire, Wire]:
        """The current weights as the next version."""
        adapter = self._trainer.publish()
        return adapter.to_wire(), {"version": adapter.version}

    def step(self, batch: bytes) -> tuple[Any, Wire]:
        """One update on a batch of replay's. Returns the loss of each trajectory [B] and the
        update's metrics, or nothing and why there was none."""
        from gfn_ray.policy.refused import Refused

        update = self._trainer.step(self._groups(from_bytes(batch)))
        if isinstance(update, Refused):
            return None, update.to_wire()
        return update.losses, update.metrics

    def fit(self, wires: list[Wire]) -> Wire:
        """One likelihood update on unscored trajectories; returns its metrics, or why there was
        none."""
        from gfn_ray.policy.refused import Refused

        update = self._likelihood.step(self._groups(_trajectories(wires)))
        return update.to_wire() if isinstance(update, Refused) else update

    def state(self) -> Wire:
        """All that later updates depend on."""
        state = {"policy": self._trainer.state()}
        if not self._trainer.step_count:  # the warm start's optimizer is of no use after it
            state["likelihood"] = self._likelihood.state()
        return state

    def restore(self, state: Wire, version: int | None = None) -> None:
        """Become the learner that state() described. version: of the next publication, where
        it is to be another one than that learner's."""
        self._trainer.restore(state["policy"], version)
        if "likelihood" in state:
            self._likelihood.restore(state["likelihood"])

    def score(self, wires: list[Wire]) -> Wire:
        """log q of whole trajectories, of their content tokens only, and log p_ref or 0 [B]."""
        return vars(self._trainer.score(self._groups(_trajectories(wires))))

    def compare(self, wires: list[Wire], adapter: Wire, before: Wire | None = None) -> Wire:
        """log q of content tokens [N] of some samples of q among these: by the engine that made
        them, and here under their own adapter, none, and one from before. Empty where there are
        no such samples."""
        from gfn_ray.policy.adapter import Adapter

        known = [t for t in _trajectories(wires) if not np.isnan(t.sampler_log_pf)]
        if not known:
            return {}
        some = known[:COMPARED]
        groups = self._groups(some)

        def log_pf(weights: Adapter) -> Any:
            return self._trainer.score_under(weights, groups).log_pf

        new = Adapter.from_wire(adapter)
        old = {"the base model": log_pf(new.without_effect())}
        if before is not None:
            old[f"version {before['version']}"] = log_pf(Adapter.from_wire(before))
        engine = np.array([t.sampler_log_pf for t in some])
        return {"engine": engine, "new": log_pf(new), "old": old}

    def _groups(self, trajectories: list[Trajectory]) -> list[Any]:
        from gfn_ray.policy.log_q import TrajectoryGroup

        groups: list[TrajectoryGroup] = []
        previous = None
        for trajectory in trajectories:
            if trajectory.query_id != previous:
                prompt = self._queries[trajectory.query_id].prompt_ids
                groups.append(TrajectoryGroup(prompt, []))
                previous = trajectory.query_id
            groups[-1].trajectories.append(trajectory)
        return groups
