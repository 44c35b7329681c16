"""Finished continuation runs on one plane of likelihood and diversity, with one table.

    python jobs/continuation.py --reward.temperature-end 0.8 --seed 1 --run-dir runs/T0.8-s1
    python benchmarks/continuation_plane.py runs/T* --out plane

Runs of equal reward temperature are averaged over seeds; decoders are averaged over all runs.
All runs must have the same model, held-out prompts and samples a prompt.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gfn_ray.errors import UserError
from gfn_ray.evaluation.plane import Mark, Role, draw_plane

METRICS = ("log_p_mean", "log_p_max", "diversity", "length_mean")
COMPARED = ("model", "data", "task", "eval")  # sections of settings that all runs share


@dataclass(frozen=True)
class Run:
    """One finished run. metrics: of each way to draw texts, by its name in the table."""

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
        {section: settings[section] for section in COMPARED if section in settings},
    )


def gflownet(temperature: float) -> str:
    return f"GFlowNet T = {temperature:g}"


def gather(runs: Sequence[Run]) -> dict[str, dict[str, list[float]]]:
    """Values of each metric over runs, for each way to draw texts, policies last."""
    if any(run.shared != runs[0].shared for run in runs):
        raise UserError(
            "the runs differ in model, data, task or eval settings, so they cannot stand on one "
            "plane; give runs that differ in reward temperature and seed alone"
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
        values = gather([read_run(directory) for directory in given.runs])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(values))
    points, lines = marks(values)
    files = draw_plane(
        given.out,
        points,
        "Likelihood and diversity of the next sentence",
        f"{len(given.runs)} runs; up and to the right is better. Blue: GFlowNets by reward "
        "temperature T; all others decode the frozen model under the same support.",
        lines,
    )
    print("drawn: " + ", ".join(map(str, files)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
