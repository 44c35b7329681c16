"""Finished continuation runs on one plane of likelihood and diversity, with one table.

    python jobs/continuation.py --reward.temperature-end 0.8 --seed 1 --run-dir runs/T0.8-s1
    python benchmarks/continuation_diversity.py runs/T* --out plane

Runs of equal reward temperature are averaged over seeds; decoders are averaged over all runs.
All else that makes a run what it is must be the same in all of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfn_ray.errors import UserError
from gfn_ray.evaluation.plots.diversity_plot import Mark, Role, draw_diversity

METRICS = ("log_p_mean", "log_p_max", "diversity", "length_mean")
# Settings that may differ: what is averaged or told apart, and what no number depends on.
FREE = ("seed", "run_dir", "reward.temperature", "tracking", "checkpoint", "profile", "runtime")


@dataclass(frozen=True)
class Run:
    """One finished run. metrics: of each way to draw texts, by its name in the table. shared:
    settings by dotted name."""

    temperature: float
    metrics: dict[str, dict[str, float]]
    shared: dict[str, object]


def read_run(directory: Path) -> Run:
    """Raises UserError for a directory that holds no finished continuation run."""
    try:
        summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
        settings = tomllib.loads((directory / "config.toml").read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{directory} is no finished run: cannot read {error.filename}: {error.strerror}"
        ) from None
    if summary["task"] != "continuation":
        raise UserError(f"{directory} is a run of {summary['task']}, expected continuation")
    temperature = settings["reward"]["temperature_end"]
    return Run(
        temperature,
        {
            **summary["baselines"],
            "sampling": summary["before"],
            gflownet(temperature): summary["after"],
        },
        {name: value for name, value in dotted(settings) if not name.startswith(FREE)},
    )


def dotted(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of a tree by dotted name."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def gflownet(temperature: float) -> str:
    return f"GFlowNet T = {temperature:g}"


def gather(runs: Sequence[Run]) -> dict[str, dict[str, list[float]]]:
    """Values of each metric over runs, for each way to draw texts, policies last."""
    for run in runs:
        # A setting that only one of them has came with a later version.
        for name in runs[0].shared.keys() & run.shared.keys():
            if run.shared[name] != runs[0].shared[name]:
                raise UserError(
                    f"the runs differ in {name} ({runs[0].shared[name]} and {run.shared[name]}), "
                    "so they cannot stand on one plane; give runs that differ in reward "
                    "temperature and seed alone"
                )
    policies = [gflownet(t) for t in sorted({run.temperature for run in runs})]
    decoders = [name for name in dict.fromkeys(n for r in runs for n in r.metrics)]
    names = [name for name in decoders if name not in policies] + policies
    return {
        name: {
            metric: [run.metrics[name][metric] for run in runs if name in run.metrics]
            for metric in METRICS
        }
        for name in names
    }


def table(values: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: the mean of each metric, and half its range over the runs where there are some."""
    lines = ["| decoder | runs | " + " | ".join(METRICS) + " |", "|---" * (len(METRICS) + 2) + "|"]
    for name, metrics in values.items():
        cells = []
        for metric in METRICS:
            found = metrics[metric]
            spread = f" ± {(max(found) - min(found)) / 2:.2g}" if len(found) > 1 else ""
            cells.append(f"{statistics.mean(found):.3f}{spread}")
        lines.append(f"| {name} | {len(metrics[METRICS[0]])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def marks(values: dict[str, dict[str, list[float]]]) -> tuple[list[Mark], list[list[int]]]:
    """A point for each way to draw texts, and the two lines: over temperatures of sampling, and
    over reward temperatures."""
    points, tempered, policies = [], [], []
    for index, (name, metrics) in enumerate(values.items()):
        means = {metric: statistics.mean(found) for metric, found in metrics.items()}
        policy, untrained = name.startswith("GFlowNet"), name == "sampling"
        role: Role = "after" if policy else "before" if untrained else "decoder"
        points.append(Mark.of(name.replace("GFlowNet ", ""), means, role))
        if policy:
            policies.append(index)
        elif untrained or name.startswith("tempered"):
            tempered.append(index)
    by_likelihood = sorted(tempered, key=lambda i: -points[i].log_p)
    return points, [by_likelihood, policies]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("--out", type=Path, default=Path("plane"), help="path without suffix")
    given = parser.parse_args()
    try:
        # A -latest link among them is a run that is there already.
        runs = dict.fromkeys(directory.resolve() for directory in given.runs)
        values = gather([read_run(directory) for directory in runs])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(values))
    points, lines = marks(values)
    files = draw_diversity(
        given.out,
        points,
        "Likelihood and diversity of the next sentence",
        f"{len(runs)} runs; up and to the right is better. Blue: GFlowNets by reward "
        "temperature T; all others decode the frozen model under the same support.",
        lines,
    )
    print("drawn: " + ", ".join(map(str, files)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
