"""Holds simulated runs to measured ones: one run's calls predict the others' time.

    python benchmarks/plan_check.py PROFILED RUN [RUN ...]

PROFILED is the directory of a run with --profile.seconds, best long enough for all of its training;
each RUN is one of the same job on the same cores, whatever its number of samplers, updates, and
trajectories a call or update. Prints a row a run: seconds of training, largest staleness and
trajectories, predicted and measured.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from gfn_ray.config import JobConfig
from gfn_ray.runtime.planning.plan import on_cores
from gfn_ray.settings_values import read_stored, read_toml
from gfn_ray.tasks.catalog import BUILT_IN


def settings(run: Path, task: str) -> JobConfig:
    file = run / "config.toml"
    config: JobConfig = read_stored(BUILT_IN[task]().job, read_toml(file, "RUN"), file)
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profiled", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--seeded", type=int, default=0, help="demonstrations put into replay")
    asked = parser.parse_args()
    print("| run | samplers | updates | seconds | staleness | trajectories |")
    print("|---|---|---|---|---|---|")
    for run in asked.runs:
        measured: dict[str, Any] = json.loads((run / "summary.json").read_text())
        config = settings(run, measured["task"])
        found = on_cores(config, asked.profiled, asked.cores, asked.seeded)
        real = measured["training_seconds"]
        print(
            f"| {run.name} | {config.samplers} | {found.updates} | {found.seconds:.1f} for "
            f"{real:.1f} ({found.seconds / real - 1:+.0%}) | {found.staleness} for "
            f"{measured['max_staleness_seen']} | {found.trajectories} for "
            f"{measured['trajectories']} |"
        )


if __name__ == "__main__":
    main()
