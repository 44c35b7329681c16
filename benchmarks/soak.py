"""Does a long run leak? Memory, object store, files and shared memory of a run, over time.

    make soak ARGS="--minutes 60"

Trains a policy of random digits on the tiny model of the tests for so long, looks at every process
each few seconds, and fits a line to each series once the run has warmed up. A series grows where
its slope is beyond doubt (95 % interval above zero) and adds more than `GROWTH` of its mean in an
hour. Prints a Markdown table; --out keeps it, the samples and a plot.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import psutil
from scipy import stats

from gfn_ray.evaluation.plots.plotting import AFTER, GRID, INK, save_figure
from testing.job_runner import tiny_number_flags
from testing.tiny import tiny_model
from testing.victim import ACTORS, Victim

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTINGS = {
    "steps": 10_000_000,
    "task__high": 9,
    "policy__lora_rank": 32,
    "learner__lr": "1e-3",
    "eval__every": 0,
    "checkpoint__every": 50,
    "runtime__log_every": 1000,
}
WARM_UP = 0.25  # share of the samples that are left out: caches fill, allocators settle
BLOCKS = 20
GROWTH = 0.05  # of the mean, in an hour
MIB = 2**20
SHARED = Path("/dev/shm")

Series = dict[str, list[float]]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trend:
    """slope and its 95 % interval in units an hour."""

    name: str
    mean: float
    slope: float
    low: float
    high: float

    @property
    def grows(self) -> bool:
        return self.low > 0 and self.slope > GROWTH * self.mean


def trend(name: str, hours: Array, values: Array) -> Trend:
    """A straight line through what comes after the warm-up, by Theil and Sen: a few samples far off
    do not tilt it. Its interval takes samples for independent, and neighbours are alike; so it is
    fitted to the means of BLOCKS stretches."""
    skipped = int(len(values) * WARM_UP)
    x, y = (
        np.array([block.mean() for block in np.array_split(series[skipped:], BLOCKS)])
        for series in (hours, values)
    )
    slope, _, low, high = stats.theilslopes(y, x)
    return Trend(name, float(y.mean()), float(slope), float(low), float(high))


def look(victim: Victim) -> dict[str, float]:
    """Everything that could leak, now."""
    found: dict[str, float] = {}
    processes = {kind: victim.actor(kind) for kind in ACTORS}
    processes["controller"] = psutil.Process(victim.process.pid)
    for kind, process in processes.items():
        # Unique set size: pages of Ray's store that a process has touched are not its own.
        found[f"{kind}: memory, MiB"] = process.memory_full_info().uss / MIB
        found[f"{kind}: open files"] = process.num_fds()
        found[f"{kind}: threads"] = process.num_threads()
    found["/dev/shm: files with a name"] = len(list(SHARED.iterdir()))
    found["object store in /dev/shm: MiB"] = _store(victim) / MIB
    found["run directory: MiB"] = sum(_sizes(victim.run_dir)) / MIB
    return found


def soak(home: Path, minutes: float, every: float) -> tuple[Array, Series]:
    """Hours [N] and what was seen at each."""
    model = tiny_model(home / "model")
    flags = tiny_number_flags(model, home, **SETTINGS)
    victim = Victim(home, flags)
    hours: list[float] = []
    seen: Series = defaultdict(list)
    try:
        victim.wait(lambda: victim.step > 0, 600.0, "training did not begin")
        started = time.monotonic()
        while (passed := time.monotonic() - started) < 60 * minutes:
            for name, value in look(victim).items():
                seen[name].append(value)
            hours.append(passed / 3600)
            due = time.monotonic() + every
            victim.wait(lambda due=due: time.monotonic() >= due, 2 * every, "the clock stands")
        print(f"{victim.step} updates in {minutes:g} minutes, {len(hours)} looks")
    finally:
        victim.kill()
    return np.array(hours), dict(seen)


def table(trends: list[Trend]) -> str:
    rows = ["| | mean | change an hour | 95 % interval | |", "|---|---|---|---|---|"]
    for one in trends:
        verdict = "GROWS" if one.grows else "flat"
        rows.append(
            f"| {one.name} | {one.mean:.1f} | {one.slope:+.2f} | {one.low:+.2f} to {one.high:+.2f} "
            f"| {verdict} |"
        )
    return "\n".join(rows)


def plot(hours: Array, seen: Series) -> Callable[[], Figure]:
    """Memory of each process, one panel each, on a scale that starts at zero."""

    def make() -> Figure:
        from matplotlib.figure import Figure

        names = [name for name in seen if name.endswith("MiB")]
        figure = Figure(figsize=(8, 1.5 * len(names)), layout="constrained")
        for axes, name in zip(figure.subplots(len(names), sharex=True), names, strict=True):
            axes.plot(60 * hours, seen[name], color=AFTER, linewidth=1.2)
            axes.set_ylim(0, 1.25 * max(seen[name]) or 1)
            axes.set_title(name, loc="left", fontsize=9, color=INK)
            axes.grid(color=GRID)
            axes.spines[["top", "right"]].set_visible(False)
        figure.axes[-1].set_xlabel("minutes")
        return figure

    return make


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=60.0, help="default 60")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between looks")
    parser.add_argument("--out", type=Path, help="a new directory for table, samples and plot")
    given = parser.parse_args()
    shortest = 2 * BLOCKS * given.every / 60 / (1 - WARM_UP)
    if given.minutes < shortest:
        parser.error(f"a trend takes --minutes {shortest:.1f} or more at --every {given.every:g}")
    home = (given.out or Path(tempfile.mkdtemp(prefix="gfn-ray-soak-"))).absolute()
    home.mkdir(parents=True, exist_ok=True)
    hours, seen = soak(home, given.minutes, given.every)
    # What a run writes down is meant to grow; it is drawn, not judged.
    judged = [name for name in seen if not name.startswith("run directory")]
    trends = [trend(name, hours, np.array(seen[name])) for name in judged]
    (home / "samples.json").write_text(json.dumps({"hours": hours.tolist(), **seen}) + "\n")
    (home / "report.md").write_text(table(trends) + "\n")
    files = save_figure(plot(hours, seen), home / "soak", "A run's memory over time", 110)
    print(f"\n{table(trends)}\n\ndrawn: {files[0]}")
    return 1 if any(one.grows for one in trends) else 0


def _store(victim: Victim) -> int:
    """Bytes that Ray's store takes up: its file has no name any more, but its raylet holds it."""
    taken = 0
    for one in psutil.Process(victim.process.pid).children(recursive=True):
        if one.name() == "raylet":
            for held in Path(f"/proc/{one.pid}/fd").iterdir():
                if os.readlink(held).startswith(f"{SHARED}/"):
                    taken += 512 * held.stat().st_blocks
    return taken


def _sizes(directory: Path) -> list[int]:
    """Of every file below; one may go while it is looked at."""
    sizes = []
    for one in directory.rglob("*"):
        try:
            if one.is_file():
                sizes.append(one.stat().st_size)
        except FileNotFoundError:
            continue
    return sizes


if __name__ == "__main__":
    sys.exit(main())
