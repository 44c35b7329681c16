"""Where the actors live: a given Ray cluster, or our own Ray on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_constants

from gfn_ray.config import JobConfig
from gfn_ray.errors import RunFailed, UserError
from gfn_ray.formatting import byte_size
from gfn_ray.runtime.resources.ray_address import check_answers
from gfn_ray.runtime.resources.ray_places import (
    check_shared_memory,
    provide_home,
    temporary_directory,
)

# A run moves adapters and token ids; Ray's default of a third of memory would be wasted.
LOCAL_OBJECT_STORE_BYTES = 512 << 20


@contextmanager
def connected() -> Iterator[None]:
    """Stays with the Ray that this process has, if any, and leaves it running; else connects to
    $RAY_ADDRESS (set inside a submitted job), or starts Ray locally."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    if address == "local":  # Ray's word for no cluster
        address = None
    # A failed call has several references, of which calls.py reads one; Ray would print a
    # traceback for each of the others.
    common = {"log_to_driver": False, "logging_level": "CRITICAL"}
    if address:
        _join(address, common)
    else:
        _start(common)
    try:
        yield
    finally:
        ray.shutdown()


def _join(address: str, common: dict[str, Any]) -> None:
    try:
        check_answers(address)
        ray.init(address=address, **common)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"RAY_ADDRESS is {address!r}, where no Ray cluster answers ({error}); it takes "
            "auto, ray://host:10001 or host:6379; unset it to run locally"
        ) from None


def _start(common: dict[str, Any]) -> None:
    """Starts our own Ray, which listens only on this machine."""
    check_shared_memory()
    provide_home()
    place = temporary_directory()
    # Ray read the variable on import, perhaps before this package set it.
    ray_constants.ENABLE_RAY_CLUSTER = ray_constants.env_bool(
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, False
    )
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
            _temp_dir=place,
            **common,
        )
    except Exception as error:
        # Without a free port or enough time, Ray's start raises exceptions of every kind, even a
        # bare Exception.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        logs = Path(place or get_default_ray_temp_dir()) / "session_latest" / "logs"
        raise RunFailed(
            f"Ray did not start on this machine: {reason[0]} Its logs are in {logs}"
        ) from error


def choose_device(config: JobConfig) -> str:
    """Returns "cuda" or "cpu", checked against the cluster."""
    gpus = ray.cluster_resources().get("GPU", 0.0)
    if config.runtime.device == "cuda" and not gpus:
        raise UserError("runtime.device is 'cuda', but the Ray cluster has no GPU; use cpu or auto")
    if config.runtime.device != "auto":
        return config.runtime.device
    # A CPU build of torch cannot use the GPUs that Ray has counted.
    return "cuda" if gpus and torch.version.cuda else "cpu"


def cores_by_machine() -> dict[str, int]:
    """CPUs of each machine of the cluster, by Ray's node id."""
    machines = [one for one in ray.nodes() if one["Alive"]]
    return {one["NodeID"]: int(one["Resources"].get("CPU", 0)) for one in machines}


def free_room() -> str:
    """Describes the cluster's unreserved resources."""
    return in_words(ray.available_resources())


def in_words(resources: Mapping[str, float]) -> str:
    """Describes those of Ray's resources that a user can change; memory is in bytes."""
    kinds = [f"{resources.get('CPU', 0.0):g} CPUs"]
    if "GPU" in resources:
        kinds.append(f"{resources['GPU']:g} GPUs")
    for name, called in (("memory", "memory"), ("object_store_memory", "object store")):
        if name in resources:
            kinds.append(f"{byte_size(resources[name])} of {called}")
    return ", ".join(kinds)


def check_resources(config: JobConfig, device: str) -> None:
    """Raises UserError for a run whose actors could never start."""
    vllm = config.sampler.backend == "vllm"
    if device == "cuda" and vllm and config.sampler.dtype == "float32":
        raise UserError(
            "sampler.dtype is float32, which vLLM's LoRA kernels on CUDA do not support; use auto "
            "or bfloat16"
        )
    models = config.samplers + config.reward_actors + 1
    available = ray.cluster_resources()
    cpus = models * config.runtime.cpus_per_actor
    if cpus > available.get("CPU", 0.0):
        raise UserError(
            f"{models} actors with models need {cpus:g} CPUs, but the Ray cluster has "
            f"{available.get('CPU', 0):g}; lower samplers, reward_actors or runtime.cpus_per_actor "
            f"({config.runtime.cpus_per_actor:g})"
        )
    gpus = (
        config.samplers * config.sampler.reserved_gpus
        + config.reward_actors * config.reward.gpus
        + config.learner.gpus
    )
    if device == "cuda" and gpus > available.get("GPU", 0.0) + 1e-6:
        raise UserError(
            f"the actors need {gpus:g} GPUs, but the Ray cluster has {available.get('GPU', 0):g}; "
            "lower sampler.gpus, reward.gpus, learner.gpus or the number of actors"
        )
