"""The actor that samples."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gfn_ray.config import JobConfig
from gfn_ray.models.merged import BaseAdapter
from gfn_ray.runtime.actors.model_actor import ModelActor, model_directory
from gfn_ray.runtime.resources.device_lock import starting_on, visible_devices
from gfn_ray.runtime.resources.gpu_tenants import naming_tenants
from gfn_ray.sampling.tools import Tool, ToolLoop
from gfn_ray.seeds import Seed, generator
from gfn_ray.storage.serialization import Record
from gfn_ray.storage.trajectories import pack_trajectories
from gfn_ray.support import Support
from gfn_ray.trajectory import Query

if TYPE_CHECKING:
    from gfn_ray.policy.adapter import Adapter


class SamplerActor(ModelActor):
    """The sampling engine, with the newest adapter it was given and the task's tool, if any."""

    def __init__(
        self,
        config: JobConfig,
        device: str,
        base: BaseAdapter | None,
        support: Support,
        queries: list[Query],
        tool: Tool | None,
    ) -> None:
        self._config = config
        self._device = device
        self._base = base
        self._support = support
        self._queries = {query.query_id: query for query in queries}
        self._tool = tool

    def load(self) -> None:
        from gfn_ray.models.loading import load_tokenizer
        from gfn_ray.sampling.backend import start_backend
        from gfn_ray.sampling.shared_fate import SharedFate

        self._start_threads()
        config = self._config
        path = model_directory(config, self._base)
        loop = None
        if self._tool is not None:
            tokenizer = load_tokenizer(path, config.model.trust_remote_code)
            loop = ToolLoop(self._tool, tokenizer, self._support)
        devices = visible_devices() if self._device == "cuda" else []
        with starting_on(devices, config.runtime.start_timeout_s), naming_tenants(devices):
            self._engine = start_backend(
                config, path, self._support, device=self._device, tool=loop
            )
        self._fate = SharedFate(self._engine.processes)

    def sample(
        self,
        adapter: Adapter,
        query_ids: list[str],
        seed: Seed,
        evaluating: bool,
        on_policy: int = 0,
        more: Sequence[Query] = (),
    ) -> tuple[bytes, Record]:
        """Samples one group of unscored trajectories per query under `adapter`.

        seed: entropy of every random choice of this call. evaluating: on-policy and tempered
        samples as set by `eval`; otherwise an exploring group as set by `sampler`. on_policy: if
        not 0, that many on-policy samples instead. more: simulated queries among those named.
        """
        from gfn_ray.sampling.backend import SampleRequest
        from gfn_ray.sampling.exploration import (
            evaluation_behaviour,
            exploration_behaviours,
            on_policy_behaviour,
        )

        started = time.perf_counter()
        rng = generator(seed)
        if on_policy:
            plans = [on_policy_behaviour(on_policy, rng) for _ in query_ids]
        elif evaluating:
            plans = [evaluation_behaviour(self._config.eval, rng) for _ in query_ids]
        else:
            plans = exploration_behaviours(self._config.sampler, len(query_ids), rng)
        known = self._queries | {query.query_id: query for query in more}
        queries = [known[query_id] for query_id in query_ids]
        with self._fate.shared():
            self._engine.load(adapter)
            trajectories = self._engine.sample(list(map(SampleRequest, queries, plans)))
        info = {
            "tokens": sum(len(t) + 1 for t in trajectories),
            "seconds": time.perf_counter() - started,
            "steps": self._engine.steps,
            "tool_calls": self._engine.tool_calls,
            "tool_errors": self._engine.tool_errors,
        }
        return pack_trajectories(trajectories), info
