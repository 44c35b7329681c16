"""CPU time and memory of a process and of all below it, read from outside.

Both sides of a comparison are read in this one way, whatever they report about themselves. Roles
are Ray's names of its workers: "Sampler" for the process of a SamplerActor.
"""

from __future__ import annotations

import re
from collections import defaultdict

import psutil

ACTOR = re.compile(r"^ray::(\w+?)Actor\b")
MAIN, OTHER = "main", "other"
MIB = 2**20


class ProcessTree:
    """pid: of the process at its root."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        # By process, so that one that has ended still counts with what it was last seen at.
        self._cpu: dict[psutil.Process, float] = {}
        self._roles: dict[psutil.Process, str] = {}

    def cpu_seconds(self) -> dict[str, float]:
        """By role, so far: user and system time of all threads, without what a process used after
        it was last seen."""
        for process in self._processes():
            try:
                times = process.cpu_times()
                self._roles[process] = self._role(process)
            except psutil.NoSuchProcess:
                continue
            self._cpu[process] = times.user + times.system
        found: dict[str, float] = defaultdict(float)
        for process, seconds in self._cpu.items():
            found[self._roles[process]] += seconds
        return dict(found)

    def memory_mib(self) -> float:
        """Proportional set size of all: pages that processes share count once."""
        total = 0
        for process in self._processes():
            try:
                total += process.memory_full_info().pss
            except psutil.NoSuchProcess:
                continue
        return total / MIB

    def _processes(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _role(self, process: psutil.Process) -> str:
        if process == self._root:
            return MAIN
        known = self._roles.get(process, OTHER)
        named = ACTOR.match(" ".join(process.cmdline()))
        # A worker is named after its actor once it has one.
        return named.group(1) if named else known
