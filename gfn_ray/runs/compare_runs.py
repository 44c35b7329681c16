"""Compares finished runs from the files in their directories."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gfn_ray.config import CompareJob
from gfn_ray.errors import UserError
from gfn_ray.evaluation.compare import (
    PerQuery,
    Run,
    compare,
    compare_simulated,
    comparison_table,
)
from gfn_ray.evaluation.posterior import AVERAGED
from gfn_ray.paths import output_root
from gfn_ray.runs.display import make_console
from gfn_ray.runs.run_dir import RunDir

WIDEST = 400  # columns outside a terminal, so that rows do not wrap in a file


def compare_runs(config: CompareJob) -> int:
    """Prints the comparison and returns the exit code. Raises UserError if there can be none."""
    runs = [read_run(RunDir(output_root() / path.expanduser())) for path in config.runs]
    rows = compare(runs, config.resamples, config.seed)
    console = make_console()
    if not console.is_terminal:
        console.width = WIDEST
    for index, run in enumerate(runs):
        console.print(f"{chr(ord('A') + index)}  {run.name}")
    console.print(
        f"Means over n held-out queries; untrained is A before training. Differences with "
        f"95 % intervals ({config.resamples:,} resamples of the queries); * excludes zero.\n"
        "log_z, log_z_gap and ess_fraction depend on eval.samples: with few samples the gap is too "
        "low and the fraction too high."
    )
    console.print(comparison_table(rows, len(runs)))
    simulated = compare_simulated(runs, config.resamples, config.seed)
    if simulated:
        console.print(
            "\nThe same on n simulated queries: the frozen LM wrote them, and exact draws z* of "
            "their posteriors at T = 1 with them, which all runs share. Where the targets agree, "
            "A - B of log_pf_posterior, log q of z*, is KL(p||q) of B less that of A."
        )
        console.print(comparison_table(simulated, len(runs)))
    return 0


def read_run(directory: RunDir) -> Run:
    """Reads a run's first and last evaluation, with the diagnostics that can be averaged."""
    phases: dict[str, PerQuery] = {}
    for phase in ("before", "after"):
        found: dict[str, dict[str, float]] = {}
        for file, names in ((directory.diagnostics_file, AVERAGED), (directory.queries_file, None)):
            for row in _rows(file):
                if row.get("phase") == phase:
                    values = found.setdefault(row["query_id"], {})
                    values |= {
                        name: value
                        for name, value in row.items()
                        if _is_metric(name, value) and (names is None or name in names)
                    }
        if not found:
            raise UserError(
                f"{directory.path} has no evaluation {phase} training; it takes the directory of "
                "a finished run"
            )
        phases[phase] = found
    name = str(directory.path)
    return Run(name, phases["before"], phases["after"], _simulated(directory, name))


def _simulated(directory: RunDir, name: str) -> Run | None:
    """The exact draws of a run, each by its query and density: another draw is another key."""
    if not directory.simulated_file.exists():
        return None
    phases: dict[str, dict[str, dict[str, float]]] = {"before": {}, "after": {}}
    for row in _rows(directory.simulated_file):
        if row.get("phase") in phases:
            density = row.pop("log_density", None)
            values = {name: value for name, value in row.items() if _is_metric(name, value)}
            phases[row["phase"]][f"{row['query_id']} {density!r}"] = values
    return Run(name, phases["before"], phases["after"])


def _is_metric(name: str, value: Any) -> bool:
    """Whether a value is a metric, not a row's own field; JSON stores whole numbers as int."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and name != "step"


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with file.open("rb") as lines:
            for number, encoded in enumerate(lines, start=1):
                yield _row(file, number, encoded)
    except OSError as error:
        raise UserError(
            f"cannot read {file} ({error.strerror}); --runs takes directories of finished runs"
        ) from None


def _row(file: Path, number: int, encoded: bytes) -> dict[str, Any]:
    try:
        row = json.loads(encoded)
        if not isinstance(row, dict) or not isinstance(row.get("query_id"), str):
            raise ValueError("no JSON object with a query_id")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file}, line {number} is damaged ({error}); restore the file from a copy, or "
            "leave the run out of --runs"
        ) from None
    return row
