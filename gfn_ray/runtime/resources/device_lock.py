"""Lets engines on one GPU start one after another.

vLLM sizes its cache by how much the GPU's free memory changes while it starts: of two that start at
once, each would count the other's. The lock is a file in this account's cache, named after machine
and GPU, so that it also holds between runs and for an actor that starts again. The system releases
it when a process dies.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from gfn_ray.errors import RunFailed
from gfn_ray.models.cache import cache_root


def visible_devices() -> list[str]:
    """The GPUs of this process, as Ray assigned them: numbers or UUIDs."""
    return [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]


@contextmanager
def starting_on(devices: list[str], limit_s: float) -> Iterator[None]:
    """Holds the locks of these GPUs. limit_s: runtime.start_timeout_s.

    Raises RunFailed if others hold them for longer.
    """
    with ExitStack() as locks:
        for device in sorted(devices):  # in one order, or two engines could wait for each other
            try:
                locks.enter_context(FileLock(_file(device), timeout=limit_s))
            except Timeout:
                raise RunFailed(
                    f"other engines have been starting on GPU {device} for {limit_s:g} s, and only "
                    "one starts at a time; raise runtime.start_timeout_s, or start fewer samplers "
                    "on a GPU"
                ) from None
        yield


def _file(device: str) -> Path:
    locks = cache_root() / "starting"
    locks.mkdir(parents=True, exist_ok=True)
    return locks / f"{socket.gethostname()}-gpu-{device}.lock"
