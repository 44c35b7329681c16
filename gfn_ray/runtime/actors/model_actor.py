"""What all actors with a model have in common.

Actors are thin shells around engine, reward, buffer and trainer: each unpacks a block of
trajectories, calls plain code, and packs the result. A block is returned apart from a small `info`
dict, so that the controller can pass it on by reference and read only the numbers. Models are
loaded by `load`, not by constructors: what a method raises reaches the controller with its own
type.
"""

from __future__ import annotations

import os
import time
from typing import Any

import ray

from gfn_ray.config import JobConfig


def load_model(config: JobConfig, dtype: str, device: str) -> Any:
    from gfn_ray.models.loading import load_causal_lm, resolve_model

    path = resolve_model(config.model)
    return load_causal_lm(path, dtype, device, config.model.trust_remote_code)


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
