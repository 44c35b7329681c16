"""Records of finished cells: what a run said, kept where it outlives the run's directory.

A file of JSON lines for each section, sorted by name, so that lines from several machines merge.
Owns their format and what of a run's summary they hold; a cell that has a record is finished.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from gfn_ray.comparison.cells import Cell
from gfn_ray.comparison.coverage import FILE, Coverage
from gfn_ray.errors import UserError
from gfn_ray.storage.atomic import write_atomically
from gfn_ray.storage.json_lines import line

SUMMARY = "summary.json"
_DIGITS = 6  # significant ones, of a value


@dataclass(frozen=True)
class Record:
    """date: when the run ended, UTC. machine: its processor and cores. values: finite numbers of
    the summary by dotted name. distribution: of random numbers, for the first seed of a row."""

    name: str
    command: str
    commit: str
    seconds: float
    date: str
    machine: Mapping[str, Any]
    values: Mapping[str, float]
    distribution: Mapping[str, list[float]] = field(default_factory=dict)

    @property
    def coverage(self) -> Coverage:
        return Coverage.of(self.distribution)


class Records:
    """The records below a directory. Another process may add to them, too."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._known: dict[str, dict[str, Record]] = {}

    def of(self, cell: Cell) -> Record | None:
        return self._section(cell.section.slug).get(cell.name)

    def __contains__(self, cell: Cell) -> bool:
        return self.of(cell) is not None

    def add(self, cell: Cell, record: Record) -> None:
        slug = cell.section.slug
        known = {**_read(self._file(slug)), record.name: record}
        text = "".join(line(_plain(known[name])) for name in sorted(known))
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file(slug), text)
        self._known[slug] = known

    def mean_seconds(self, slug: str) -> float | None:
        """Of the section's finished runs."""
        found = [record.seconds for record in self._section(slug).values()]
        return sum(found) / len(found) if found else None

    def _section(self, slug: str) -> dict[str, Record]:
        if slug not in self._known:
            self._known[slug] = _read(self._file(slug))
        return self._known[slug]

    def _file(self, slug: str) -> Path:
        return self.directory / f"{slug}.jsonl"


def record_of(cell: Cell, directory: Path, command: str, commit: str, seconds: float) -> Record:
    """What stays of a finished run, from its directory. seconds: of the process, which is a part of
    the run where it was resumed."""
    summary = json.loads((directory / SUMMARY).read_text(encoding="utf-8"))
    values = summary_values(summary, cell.method.baselines)
    distribution: dict[str, list[float]] = {}
    if (directory / FILE).exists():
        coverage = Coverage.read(directory)
        values |= {f"coverage.{name}": _rounded(n) for name, n in coverage.measures().items()}
        if cell.seed == cell.section.seeds[0]:
            distribution = {name: _list(n) for name, n in coverage.columns().items()}
    return Record(
        cell.name,
        command,
        commit,
        round(max(seconds, summary.get("wall_seconds", 0.0)), 1),
        time.strftime("%Y-%m-%d", time.gmtime()),
        machine(),
        {name: n for name, n in sorted(values.items()) if math.isfinite(n)},
        distribution,
    )


def summary_values(summary: Mapping[str, Any], baselines: tuple[str, ...]) -> dict[str, float]:
    """Numbers of a summary: of the whole run, after training, and of these baselines."""
    parts = {"": summary, "after.": summary.get("after", {})}
    parts |= {f"baselines.{name}.": summary["baselines"][name] for name in baselines}
    found = {
        f"{prefix}{name}": _rounded(n)
        for prefix, part in parts.items()
        for name, n in part.items()
        if isinstance(n, int | float)
    }
    if memory := summary.get("peak_mib"):
        found["peak_mib"] = _rounded(sum(memory.values()))
    return found


@cache
def machine() -> dict[str, Any]:
    """This machine: the processor's name and the cores that this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [one.partition(":")[2].strip() for one in lines if one.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": names[0] if names else platform.processor(), "cores": cores}


def _plain(record: Record) -> dict[str, Any]:
    found = asdict(record)
    return found if record.distribution else {k: v for k, v in found.items() if k != "distribution"}


def _read(file: Path) -> dict[str, Record]:
    if not file.exists():
        return {}
    records: dict[str, Record] = {}
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = Record(**json.loads(text))
        except (ValueError, TypeError):
            raise UserError(
                f"{file}, line {number}: expected the record of a run, got {text[:60]!r}; take the "
                "line out, and what it recorded is run again"
            ) from None
        records[record.name] = record
    return records


def _rounded(n: float) -> float:
    return float(f"{n:.{_DIGITS}g}")


def _list(numbers: Any) -> list[float]:
    return [float(f"{n:.4g}") for n in numbers]
