"""Ray's processes, found by the names that Ray gives them."""

from __future__ import annotations

import psutil


def actor_processes(root: int, kind: str) -> list[psutil.Process]:
    """Those below a process in which Ray runs actors of a class, such as SamplerActor."""
    below = psutil.Process(root).children(recursive=True)
    return [one for one in below if "".join(command(one)[:1]).split(".")[0] == f"ray::{kind}"]


def command(process: psutil.Process) -> list[str]:
    """Its command line; of one that ended since it was found, none. Idle workers go at any time."""
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
