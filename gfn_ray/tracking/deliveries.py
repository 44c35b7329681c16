"""Delivers a run's directory to MLflow: metrics and a status, tables and artifacts.

Owns how a line maps to MLflow, and when tracking.json is updated. Everything in the directory
arrives. Only what was in flight when a store or a process failed may arrive twice: numbers, which
MLflow keeps once per step and time, or rows of a table.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gfn_ray.tracking.names import batches, key
from gfn_ray.tracking.state import TrackingState
from gfn_ray.tracking.store import MlflowRun

if TYPE_CHECKING:
    from mlflow.entities import Metric

NUMBERS = ("metrics.jsonl", "restarts.jsonl")
TABLES = ("samples.jsonl", "diagnostics.jsonl", "restarts.jsonl")

_LINES_AT_ONCE = 1000
_METRICS_PER_BATCH = 1000  # MLflow's MAX_METRICS_PER_BATCH

_NOT_MEASURED = ("step", "time")

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Row = Mapping[str, Any]


class Deliveries:
    """One run's deliveries: generators that send what MLflow lacks and yield before each part."""

    def __init__(self, run: MlflowRun, directory: Path, state: TrackingState) -> None:
        self._client = run.client
        self._run = run
        self._directory = directory
        self._state = state
        self.status: str | None = None
        """The status with which the run ended."""

    def numbers(self) -> Iterator[None]:
        """Delivers the numbers in lines, then the status of a run that has ended."""
        for name in NUMBERS:
            for _, found in self._unread(name, self._state.numbers, _metrics):
                yield
                for batch in batches(list(chain.from_iterable(found)), _METRICS_PER_BATCH):
                    self._client.log_batch(self._run.run_id, batch)
        if self.status is not None:
            yield
            self._client.set_terminated(self._run.run_id, self.status)
            self.status = None

    def files(self) -> Iterator[None]:
        """Delivers lines as rows of tables, then artifacts."""
        for name in TABLES:
            for table, rows in self._unread(name, self._state.tables, partial(_table_row, name)):
                yield
                if table is not None:
                    columns = {column: [row.get(column) for row in rows] for column in rows[0]}
                    self._client.log_table(self._run.run_id, columns, f"{table}.json")
        while self._state.artifacts:
            yield
            self._log_artifact(self._state.artifacts[0])
            with self._state.changing(self._directory):
                del self._state.artifacts[0]

    def _unread(
        self, name: str, delivered: dict[str, int], read: Callable[[Row], tuple[str | None, Item]]
    ) -> Iterator[tuple[str | None, list[Item]]]:
        """Yields lines that MLflow lacks, parsed by `read`: the name of their table, and items of
        that table. Asking for the next ones confirms that MLflow has these."""
        while lines := _whole_lines(self._directory / name, delivered.get(name, 0)):
            for table, group in groupby(map(partial(self._read, name, read), lines), itemgetter(0)):
                _, items, sizes = zip(*group, strict=True)
                yield table, [item for item in items if item is not None]
                with self._state.changing(self._directory):
                    delivered[name] = delivered.get(name, 0) + sum(sizes)

    def _read(
        self, name: str, read: Callable[[Row], tuple[str | None, Item]], line: bytes
    ) -> tuple[str | None, Item | None, int]:
        try:
            return *read(json.loads(line)), len(line)
        except (
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            # The line itself is damaged: a process died while writing it, or a disk failed.
            _log.warning("MLflow lacks a line of %s: %s", self._directory / name, error)
            return None, None, len(line)

    def _log_artifact(self, name: str) -> None:
        path = self._directory / name
        if not path.exists() or not path.resolve().is_relative_to(self._directory.resolve()):
            _log.warning("MLflow lacks %s, which is not in the run's directory", path)
        elif path.is_dir():
            self._client.log_artifacts(self._run.run_id, str(path), name)
        else:
            self._client.log_artifact(self._run.run_id, str(path))


def _whole_lines(file: Path, start: int) -> list[bytes]:
    """Reads some complete lines from byte `start` on; one that is being written has no end yet."""
    try:
        with file.open("rb") as lines:
            lines.seek(start)
            return [line for line in islice(lines, _LINES_AT_ONCE) if line.endswith(b"\n")]
    except FileNotFoundError:
        return []


def _metrics(row: Row) -> tuple[None, list[Metric]]:
    """Every finite number of a line under its name, at the line's step and time."""
    from mlflow.entities import Metric

    milliseconds, step = int(row["time"] * 1000), int(row["step"])
    return None, [
        Metric(key(name), float(value), milliseconds, step)
        for name, value in row.items()
        if name not in _NOT_MEASURED and type(value) in (int, float) and math.isfinite(value)
    ]


def _table_row(name: str, row: Row) -> tuple[str | None, Row]:
    """The table of a line, and its row. Each evaluation has a table; training samples have none."""
    table, phase = name.removesuffix(".jsonl"), row.get("phase")
    if phase == "train":
        return None, row
    return table if phase is None else key(f"{table}/{phase}-{row['step']:06d}"), row
