"""Where the actors live: a given Ray cluster, or our own Ray on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
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
from gfn_ray.models.loading import check_bitsandbytes
from gfn_ray.runtime.resources.placement import bundles
from gfn_ray.runtime.resources.ray_address import CLIENT, check_answers
from gfn_ray.runtime.resources.ray_places import (
    check_shared_memory,
    provide_home,
    temporary_directory,
)

# A run moves adapters and token ids; Ray's default of a third of memory would be wasted.
_FEWEST_STORE_BYTES = 512 << 20
_FLOAT32 = 4  # bytes


def store_bytes(config: JobConfig, layers: Mapping[str, tuple[int, int]]) -> int:
    """What a run keeps in the object store at most, with room for what else it moves.

    layers: outputs and inputs of the model's linear layers by name. Samples in flight hold on to
    their adapter, so as many versions live as samples may be behind, the newest, and the next.
    """
    targets = config.policy.lora_targets
    sizes = [sum(size) for name, size in layers.items() if name.rsplit(".", 1)[-1] in targets]
    adapter = _FLOAT32 * config.policy.lora_rank * sum(sizes)
    return _FEWEST_STORE_BYTES + (config.max_staleness + 2) * adapter


@contextmanager
def connected(store: int = _FEWEST_STORE_BYTES) -> Iterator[bool]:
    """Stays with the Ray that this process has, if any, and leaves it running; else connects to
    $RAY_ADDRESS (set inside a submitted job), or starts Ray locally.

    store: bytes of the object store of our own Ray. Yields whether the cluster may grow: our own
    Ray has this machine and no other.
    """
    if ray.is_initialized():
        yield True
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
        _start(common, store)
    try:
        yield bool(address)
    finally:
        ray.shutdown()


def _join(address: str, common: dict[str, Any]) -> None:
    if address.startswith(CLIENT):
        raise UserError(
            f"RAY_ADDRESS is {address!r}, Ray Client, which would keep replay on the cluster and "
            "the run's directory here; submit the job instead (ray job submit --address "
            "http://host:8265 --working-dir . -- python jobs/...)"
        )
    try:
        check_answers(address)
        ray.init(address=address, **common)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"RAY_ADDRESS is {address!r}, where no Ray cluster answers ({error}); it takes "
            "auto or host:6379; unset it to run locally"
        ) from None


def _start(common: dict[str, Any], store: int) -> None:
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
            object_store_memory=store,
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


def gpus_there() -> float:
    """GPUs of the cluster, reserved ones included."""
    return float(ray.cluster_resources().get("GPU", 0.0))


def choose_device(
    config: JobConfig, gpus: float, *, grows: bool, say: Callable[[str], None]
) -> str:
    """Returns "cuda" or "cpu". gpus: of the cluster. grows: whether more may join it, for which
    only a run on cuda waits. say: told of a cluster that has none yet."""
    wanted = config.runtime.device
    if wanted == "cuda" and not gpus and not grows:
        raise UserError("runtime.device is 'cuda', but this machine has no GPU; use cpu or auto")
    if wanted != "auto":
        return wanted
    # A CPU build of torch cannot use the GPUs that Ray has counted.
    if gpus and torch.version.cuda:
        return "cuda"
    if grows and torch.version.cuda:
        say("models run on CPUs: the Ray cluster has no GPU; --runtime.device cuda waits for one")
    return "cpu"


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


def check_resources(config: JobConfig, device: str, *, grows: bool) -> None:
    """Raises UserError for a run whose actors could never start. grows: as in choose_device."""
    if device == "cpu" and config.reward.gpus > 1:
        raise UserError(
            f"reward.gpus ({config.reward.gpus:g}) divides the frozen LM among GPUs, and models "
            "run on CPUs; leave it at its default"
        )
    if config.model.quantization is not None:
        if device == "cpu":
            raise UserError(
                f"model.quantization is {config.model.quantization}, which needs CUDA, and models "
                "run on CPUs; leave it at none"
            )
        check_bitsandbytes()
    vllm = config.sampler.backend == "vllm"
    if device == "cuda" and vllm and config.sampler.dtype == "float32":
        raise UserError(
            "sampler.dtype is float32, which vLLM's LoRA kernels on CUDA do not support; use auto "
            "or bfloat16"
        )
    if device == "cuda" and config.learners > 1 and config.learner.gpus <= 0.5:
        raise UserError(
            f"learners is {config.learners}, and learner.gpus ({config.learner.gpus:g}) would let "
            "two of them share a GPU, which NCCL refuses; set learner.gpus to 1"
        )
    if grows:
        return
    available, needed = ray.cluster_resources(), bundles(config, device)
    cpus, gpus = (sum(one.get(kind, 0.0) for one in needed) for kind in ("CPU", "GPU"))
    if cpus > available.get("CPU", 0.0):
        raise UserError(
            f"{len(needed)} actors with models need {cpus:g} CPUs, but this machine has "
            f"{available.get('CPU', 0):g}; lower samplers, reward_actors, learners or "
            f"runtime.cpus_per_actor ({config.runtime.cpus_per_actor:g})"
        )
    if gpus > available.get("GPU", 0.0) + 1e-6:
        raise UserError(
            f"the actors need {gpus:g} GPUs, but this machine has {available.get('GPU', 0):g}; "
            "lower sampler.gpus, reward.gpus, learner.gpus or the number of actors"
        )
