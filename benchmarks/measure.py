"""Two ways to do one thing, measured side by side in one run, and the record that is kept of it.

Owns the order of measurements, their ratio, how they grow and how far both spread, and the
description of the machine. What is measured stands in the figures' own files.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results.jsonl"


def machine() -> str:
    """Processor, cores that this process may use, memory, GPU, and torch with its threads."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0))
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    vectors = torch.backends.cpu.get_cpu_capability()
    if has_matrix_units():
        vectors += " with AMX"
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{model}, {cores} cores, {gib:.0f} GiB, {vectors}{gpu}; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )


def has_matrix_units() -> bool:
    """Whether the processor multiplies bfloat16 in units of their own (AMX)."""
    return "amx_bf16" in Path("/proc/cpuinfo").read_text().split()


@cache  # a record is itself a change of a file
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


def today() -> str:
    return datetime.now(UTC).date().isoformat()


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is kept of any figure. unit: of what was measured. runs: rounds."""

    name: str
    unit: str
    runs: int
    spread: tuple[float, float]
    machine: str = field(default_factory=machine)
    commit: str = field(default_factory=commit)
    date: str = field(default_factory=today)

    def record(self) -> None:
        """Appends it to the results that are kept."""
        with RESULTS.open("a") as out:
            out.write(json.dumps(asdict(self)) + "\n")


@dataclass(frozen=True, kw_only=True)
class Figure(Record):
    """ours, other: medians in `unit`. ratio: how many times better ours is, or as the figure's
    own file says, the median over rounds; spread: the smallest and the largest of the rounds."""

    ours: float
    other: float
    ratio: float

    def __str__(self) -> str:
        low, high = self.spread
        return (
            f"{self.name}: {self.ours:.4g} against {self.other:.4g} {self.unit}, "
            f"{self.ratio:.2f}x ({low:.2f} to {high:.2f} in {self.runs} rounds)"
        )


@dataclass(frozen=True, kw_only=True)
class Growth(Record):
    """How one thing grows with another: as its power `exponent`, the median over rounds, with the
    smallest and the largest in spread. points: of the other thing and the median in `unit`."""

    exponent: float
    points: list[tuple[float, float]]

    def __str__(self) -> str:
        low, high = self.spread
        ends = " to ".join(f"{y:.4g} at {x:,g}" for x, y in (self.points[0], self.points[-1]))
        return (
            f"{self.name}: exponent {self.exponent:.2f} ({low:.2f} to {high:.2f} in {self.runs} "
            f"rounds), {ends} {self.unit}"
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
    return figure(name, found["ours"], found["other"], ratios, unit)


def figure(
    name: str, ours: Sequence[float], other: Sequence[float], ratios: Sequence[float], unit: str
) -> Figure:
    """The record of what each round found."""
    return Figure(
        name=name,
        unit=unit,
        runs=len(ratios),
        spread=(min(ratios), max(ratios)),
        ours=statistics.median(ours),
        other=statistics.median(other),
        ratio=statistics.median(ratios),
    )


def growth(
    name: str,
    measured: Mapping[float, Callable[[], float]],
    *,
    rounds: int,
    unit: str,
    warm_up: bool = True,
) -> Growth:
    """All points in every round, each other time backwards; before that, once unmeasured.

    measured: by the size that grows, does the work once and says what it took, in `unit`. An
    exponent is one round's.
    """
    if warm_up:
        for work in measured.values():
            work()
    found: dict[float, list[float]] = {size: [] for size in measured}
    for number in range(rounds):
        for size in list(measured) if number % 2 == 0 else reversed(measured):
            found[size].append(measured[size]())
    sizes = list(measured)
    exponents = [
        exponent(sizes, [found[size][number] for size in sizes]) for number in range(rounds)
    ]
    return Growth(
        name=name,
        unit=unit,
        runs=rounds,
        spread=(min(exponents), max(exponents)),
        exponent=statistics.median(exponents),
        points=[(size, statistics.median(each)) for size, each in found.items()],
    )


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """p of the least-squares fit log value = p log size + constant."""
    x, y = np.log(np.asarray(sizes, dtype=float)), np.log(np.asarray(values, dtype=float))
    x = x - x.mean()
    return float((x * (y - y.mean())).sum() / (x**2).sum())


def seconds(work: Callable[[], object]) -> Callable[[], float]:
    """What `work` takes, on the clock on the wall."""

    def measured() -> float:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started

    return measured
