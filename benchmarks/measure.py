"""Two ways to do one thing, measured side by side in one run, and the record that is kept of it.

Owns the order of measurements, their ratio and its spread, and the description of the machine.
What is measured stands in the figures' own files.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.jsonl"


@dataclass(frozen=True)
class Figure:
    """ours, other: medians in `unit`. ratio: how many times better ours is, the median over
    rounds; spread: the smallest and the largest of the rounds."""

    name: str
    ours: float
    other: float
    ratio: float
    unit: str
    spread: tuple[float, float]
    runs: int
    machine: str
    commit: str
    date: str

    def record(self) -> None:
        """Appends it to the results that are kept."""
        with RESULTS.open("a") as out:
            out.write(json.dumps(asdict(self)) + "\n")

    def __str__(self) -> str:
        low, high = self.spread
        return (
            f"{self.name}: {self.ours:.4g} against {self.other:.4g} {self.unit}, "
            f"{self.ratio:.2f}x ({low:.2f} to {high:.2f} in {self.runs} rounds)"
        )


def side_by_side(
    name: str,
    ours: Callable[[], float],
    other: Callable[[], float],
    *,
    rounds: int,
    unit: str,
    higher_is_better: bool = False,
) -> Figure:
    """Both, once unmeasured and then `rounds` times in turn, whoever was second going first next.

    ours, other: do the work once and say what it took, in `unit`. A ratio is one round's, so that
    what slows the machine down for a while slows both.
    """
    ours(), other()
    found: dict[str, list[float]] = {"ours": [], "other": []}
    for number in range(rounds):
        pair = [("ours", ours), ("other", other)]
        for who, measured in pair if number % 2 == 0 else reversed(pair):
            found[who].append(measured())
    ratios = [
        mine / theirs if higher_is_better else theirs / mine
        for mine, theirs in zip(found["ours"], found["other"], strict=True)
    ]
    return Figure(
        name,
        statistics.median(found["ours"]),
        statistics.median(found["other"]),
        statistics.median(ratios),
        unit,
        (min(ratios), max(ratios)),
        rounds,
        machine(),
        commit(),
        datetime.now(UTC).date().isoformat(),
    )


def seconds(work: Callable[[], object]) -> Callable[[], float]:
    """What `work` takes, on the clock on the wall."""

    def measured() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return measured


def machine() -> str:
    """Processor, cores that this process may use, memory, and torch with its threads."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0))
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    vectors = torch.backends.cpu.get_cpu_capability()
    return (
        f"{model}, {cores} cores, {gib:.0f} GiB, {vectors}; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )


def commit() -> str:
    """The commit that is measured, with a + where files differ from it."""
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return said.stdout.strip() or "unknown"
