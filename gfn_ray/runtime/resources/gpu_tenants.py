"""Says which processes have how much of a GPU's memory, as NVML shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from gfn_ray.errors import UserError
from gfn_ray.formatting import byte_size


class Tenant(NamedTuple):
    """A process on a GPU; used: bytes."""

    name: str
    pid: int
    used: int


@contextmanager
def naming_tenants(devices: Sequence[str]) -> Iterator[None]:
    """Adds to a UserError of an engine that does not start who is on its GPUs already."""
    try:
        yield
    except UserError as error:
        if not devices:
            raise
        shown = "; ".join(f"on GPU {one}: {in_words(tenants(one))}" for one in devices)
        raise UserError(f"{error} ({shown})") from error


def tenants(device: str) -> list[Tenant]:
    """The processes on a GPU, given by number or UUID, largest first; those that NVML shows."""
    from vllm.third_party import pynvml

    found = []
    pynvml.nvmlInit()
    try:
        number = device.isdecimal()
        handle = (
            pynvml.nvmlDeviceGetHandleByIndex(int(device))
            if number
            else pynvml.nvmlDeviceGetHandleByUUID(device)
        )
        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
            found.append(Tenant(_name(process.pid), process.pid, process.usedGpuMemory or 0))
    finally:
        pynvml.nvmlShutdown()
    return sorted(found, key=lambda tenant: tenant.used, reverse=True)


def in_words(found: Sequence[Tenant]) -> str:
    """Such as "ray::LearnerActor (pid 17) has 30 GiB, ..."; says so if there are none."""
    if not found:
        return "NVML shows no process on it, as inside a container"
    return ", ".join(f"{one.name} (pid {one.pid}) has {byte_size(one.used)}" for one in found)


def _name(pid: int) -> str:
    import psutil

    title: list[Any] = []
    with suppress(psutil.Error):  # it has ended, or is another account's or container's
        title = psutil.Process(pid).cmdline()
    return title[0] if title else "a process"
