"""What an update takes in a process that reports each of its updates in a file.

Owns the reading of one process's course: the time, the CPU time and the memory at the end of every
update, and what a window of updates cost.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_posterior import Row, followed
from peer.process_tree import ProcessTree


@dataclass(frozen=True)
class Moment:
    """The end of an update. cpu: seconds so far, by role. row: what the process says itself."""

    at: float
    cpu: dict[str, float]
    memory_mib: float
    row: Row


@dataclass(frozen=True)
class Cost:
    """Of one update, on average over a window. cpu: seconds by role, and `cpu_seconds` of all."""

    seconds: float
    cpu: dict[str, float]
    peak_mib: float

    @property
    def cpu_seconds(self) -> float:
        return sum(self.cpu.values())


def course(
    process: subprocess.Popen[Any], file: Path, last: int, stop: Callable[[], None]
) -> list[Moment]:
    """A moment for each update until the process ends, which `stop` asks for after update `last`.

    file: JSON lines of the process; those of updates have "phase": "train" and their "step".
    """
    tree, found = ProcessTree(process.pid), []
    for at, row in followed(file, process):
        if row["phase"] == "train" and row["step"] <= last:
            found.append(Moment(at, tree.cpu_seconds(), tree.memory_mib(), row))
            if row["step"] == last:
                stop()
    return found


def cost(moments: list[Moment], first: int, last: int) -> Cost:
    """Of the updates after `first` up to `last`. Raises RuntimeError if one of the two is
    missing."""
    by_step = {one.row["step"]: one for one in moments}
    if not {first, last} <= by_step.keys():
        raise RuntimeError(f"updates {first} and {last} are needed, there are {sorted(by_step)}")
    begin, end, count = by_step[first], by_step[last], last - first
    cpu = {role: (used - begin.cpu.get(role, 0.0)) / count for role, used in end.cpu.items()}
    return Cost(
        (end.at - begin.at) / count,
        cpu,
        max(one.memory_mib for one in moments),
    )
