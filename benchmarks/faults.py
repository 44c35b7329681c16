"""What may befall a run: each fault is inflicted from outside, on real processes and files.

Owns the faults and how each is taken back. What becomes of the run is for chaos.py to see.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from testing.victim import ACTORS, MlflowServer, Victim

Release = Callable[[], None]

DISK_FULL = "disk full"

PAUSE_S = 2.0
"""Seconds that a slow actor keeps silent: well below the run's time limit for a call."""
GONE_WITHIN_S = 30.0
"""Seconds that a process which does not answer may outlive the start of its successor's work."""
CHECKPOINT_DISK_BYTES = 24 << 20

_FILL_STORE = """
import sys, time, numpy as np, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
kept = [ray.put(np.ones(32 << 20, dtype=np.uint8)) for _ in range(int(sys.argv[2]))]
print(len(kept), flush=True)
time.sleep(float(sys.argv[3]))
"""


@dataclass(frozen=True)
class Fault:
    """restarts: the kind of actor that has to be started again, if any. whole: the job itself dies
    and is resumed. updates: that must be applied while it lasts, before it is taken back."""

    name: str
    target: str
    inflict: Callable[[Victim], Release]
    restarts: bool = False
    whole: bool = False
    updates: int = 2


def faults(server: MlflowServer, checkpoints: Path) -> list[Fault]:
    """Each kind on each of its targets. checkpoints: on a small file system, for DISK_FULL."""
    return [
        *(Fault("kill -9", kind, _kill(kind), restarts=True) for kind in ACTORS),
        *(Fault("SIGSTOP", kind, _wedge(kind), restarts=True) for kind in ACTORS),
        *(Fault("out of memory", kind, _starve(kind), restarts=True) for kind in ACTORS),
        *(Fault("slow replies", kind, _delay(kind)) for kind in ACTORS),
        Fault("kill -9 and --resume", "the whole job", lambda victim: victim.kill, whole=True),
        Fault("server gone", "MLflow", lambda _: _without(server), updates=4),
        Fault("database locked", "MLflow", lambda _: _locked(server.database), updates=4),
        Fault("store full", "object store", _fill_store, updates=4),
        Fault(DISK_FULL, "checkpoints", lambda _: _filled(checkpoints), updates=12),
    ]


def _nothing() -> None:
    """What is done cannot be taken back."""


def _kill(kind: str) -> Callable[[Victim], Release]:
    def inflict(victim: Victim) -> Release:
        victim.actor(kind).kill()
        return _nothing

    return inflict


def _wedge(kind: str) -> Callable[[Victim], Release]:
    def inflict(victim: Victim) -> Release:
        process = victim.actor(kind)
        process.suspend()

        def release() -> None:
            """The run has to end it by itself: one that is still there would keep its memory."""
            try:
                process.wait(GONE_WITHIN_S)
            except psutil.TimeoutExpired:
                process.kill()
                raise AssertionError(f"the stopped {kind} process was left behind") from None

        return release

    return inflict


def _delay(kind: str) -> Callable[[Victim], Release]:
    def inflict(victim: Victim) -> Release:
        process = victim.actor(kind)
        process.suspend()
        time.sleep(PAUSE_S)
        process.resume()
        return _nothing

    return inflict


def _starve(kind: str) -> Callable[[Victim], Release]:
    """No further page of address space: the next allocation that needs one fails."""

    def inflict(victim: Victim) -> Release:
        process = victim.actor(kind)
        process.rlimit(psutil.RLIMIT_AS, (1 << 20, psutil.RLIM_INFINITY))

        def release() -> None:
            if process.is_running():  # it found room enough in what it had
                process.rlimit(psutil.RLIMIT_AS, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))

        return release

    return inflict


def _without(server: MlflowServer) -> Release:
    server.kill()
    return server.start


def _locked(database: Path) -> Release:
    connection = sqlite3.connect(database, timeout=30.0, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")

    def release() -> None:
        connection.rollback()
        connection.close()

    return release


def _filled(disk: Path) -> Release:
    filler = disk / ".filler"
    with filler.open("wb") as out:
        try:
            while True:
                out.write(b"\0" * (1 << 20))
                out.flush()
        except OSError:
            pass  # full, as is wanted
    return filler.unlink


def _fill_store(victim: Victim) -> Release:
    """A neighbour puts more into Ray's store than it holds, so that what lies there is evicted to
    disk. Nothing in Ray 2.60 takes a single object away from outside."""
    process = _ray_script(_FILL_STORE, victim, "24", "600")
    assert process.stdout is not None
    assert process.stdout.readline(), "the neighbour could not join the cluster"

    def release() -> None:
        process.kill()
        process.wait(30)

    return release


def _ray_script(text: str, victim: Victim, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", text, victim.gcs_address(), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        # As the run's own processes have it: Ray would look for the cluster on another address.
        env={**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"},
    )


class SmallDisk:
    """A file system of a few megabytes over a directory; needs the right to mount one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def mount(self) -> bool:
        """False where this user may not."""
        if os.geteuid() != 0 or not shutil.which("mount"):
            return False
        done = subprocess.run(
            [
                *("mount", "-t", "tmpfs", "-o", f"size={CHECKPOINT_DISK_BYTES}", "checkpoints"),
                str(self._directory),
            ],
            capture_output=True,
        )
        return done.returncode == 0

    def unmount(self) -> None:
        subprocess.run(["umount", str(self._directory)], check=True, timeout=60)
