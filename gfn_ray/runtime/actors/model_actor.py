"""The base class of all actors with a model.

Actors are thin shells around engine, reward, buffer and trainer: each unpacks a block of
trajectories, calls plain code, and packs the result. A block is returned separately from a small
`info` dict, so that the controller can pass it on by reference and read only the numbers. Models
are loaded by `load`, not by constructors, because only a method's exception keeps its type.
"""

from __future__ import annotations

import os
import time
from typing import Any

import ray

from gfn_ray.config import JobConfig
from gfn_ray.models.merged import BaseAdapter


def model_directory(config: JobConfig, base: BaseAdapter | None) -> str:
    """The directory, on this machine, of the model with the base adapter merged in."""
    from gfn_ray.models.loading import resolve_model

    path = resolve_model(config.model)
    return path if base is None else base.merged_into(path, config.model.trust_remote_code)


def load_model(
    config: JobConfig, base: BaseAdapter | None, dtype: str, device: str, spread: int = 1
) -> Any:
    """The frozen base of learner or reward. spread: GPUs that share its layers."""
    from gfn_ray.models.loading import load_causal_lm

    path, model = model_directory(config, base), config.model
    return load_causal_lm(path, dtype, device, model.trust_remote_code, model.quantization, spread)


class ModelActor:
    """Base class of actors with a model. Each starts with OMP_NUM_THREADS threads."""

    def _start_threads(self) -> None:
        # torch would use no more threads than MKL, which counts the machine's cores.
        if asked := os.environ.get("OMP_NUM_THREADS"):
            _set_threads(int(asked))

    def use_threads(self, number: int) -> None:
        """Sets the number of threads of its kernels."""
        _set_threads(number)

    def threads(self) -> int:
        """Number of threads of its kernels."""
        from torch import get_num_threads

        return get_num_threads()

    def cpu_seconds(self) -> tuple[float, str]:
        """CPU seconds of its process, over all threads, and the machine it runs on."""
        return time.process_time(), ray.get_runtime_context().get_node_id()


def _set_threads(number: int) -> None:
    # Not torch.set_num_threads, which vLLM on CPU replaces with a no-op.
    from torch._C import set_num_threads

    set_num_threads(number)
