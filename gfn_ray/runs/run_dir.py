"""The run directory: every file and directory of a run's outputs.

Owns the layout of a run directory and its default location. A plain class with one writer, the
controller; independent of Ray and of what the files hold.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from gfn_ray.config import JobConfig, TuneBaseJob
from gfn_ray.errors import UserError
from gfn_ray.paths import exists, output_root
from gfn_ray.storage.atomic import atomic_file, write_atomically
from gfn_ray.storage.json_lines import line, plain
from gfn_ray.tracking import redact_uri
from gfn_ray.tracking.address import SQLITE_FILE
from gfn_ray.tracking.state import TRACKING_FILE

ConfigT = TypeVar("ConfigT", JobConfig, TuneBaseJob)

_log = logging.getLogger(__name__)


def resolve_tracking_uri(uri: str) -> str:
    """Makes a relative sqlite path in the tracking URI absolute, below the output root."""
    path, question, query = uri.removeprefix(SQLITE_FILE).partition("?")
    if not uri.startswith(SQLITE_FILE) or path in ("", ":memory:") or path.startswith("file:"):
        return uri
    return f"{SQLITE_FILE}{output_root() / path}{question}{query}"


def redacted(config: ConfigT) -> ConfigT:
    """Returns the settings without the password in the tracking URI, safe to store."""
    uri = redact_uri(config.tracking.uri)
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": uri})})


class RunDir:
    """One run's directory: config.toml, *.jsonl, summary.json, adapter/, checkpoints/, replay/."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.toml"
        self.metrics_file = path / "metrics.jsonl"
        self.samples_file = path / "samples.jsonl"
        self.diagnostics_file = path / "diagnostics.jsonl"
        self.queries_file = path / "queries.jsonl"
        self.simulated_file = path / "simulated.jsonl"
        self.restarts_file = path / "restarts.jsonl"
        self.summary_file = path / "summary.json"
        self.profile_file = path / "profile.json"
        self.tracking_file = path / TRACKING_FILE
        self.start_dir = path / "start"
        self.checkpoints_dir = path / "checkpoints"
        self.adapter_dir = path / "adapter"
        self.replay_dir = path / "replay"
        self.nonfinite_batches_dir = path / "nonfinite_batches"
        self._made: list[Path] = []  # by `create`: this directory and its parents, as far as new
        self._found: dict[Path, bytes] = {}  # by `reopen`: files that a start overwrites
        self._link: tuple[Path, Path | None] | None = None  # and its former target

    @staticmethod
    def create(config: JobConfig | TuneBaseJob, task: str) -> RunDir:
        """Creates a directory, runs/<task>-<time> unless the config names one."""
        runs = output_root() / "runs"
        given = config.run_dir
        path = runs / f"{task}-{time.strftime('%Y%m%d-%H%M%S')}"
        try:
            if given is None:
                missing = _missing(runs)
                run = RunDir(_make_unique(path))
                run._made = [run.path, *missing]
            else:
                run = RunDir(output_root() / given.expanduser())
                run._made = _missing(run.path)
                run.path.mkdir(parents=True, exist_ok=True)
                if any(run.path.iterdir()):
                    raise UserError(
                        f"--run-dir got {run.path}, which is not empty; "
                        "it takes a new or an empty directory"
                    )
            run._take_lock()
            run.checkpoints_dir.mkdir()  # also checks that the directory is writable
        except OSError as error:
            place = f"--run-dir got {given}" if given else f"the default run directory is {path}"
            raise UserError(
                f"{place}, but {error.filename} cannot be written ({error.strerror}); "
                "name another with --run-dir"
            ) from None
        return run

    @staticmethod
    def reopen(path: Path) -> RunDir:
        """Opens the directory of a run that ended; changes nothing in it yet.

        Resolves links, because another run may move a -latest link while this one writes.
        """
        run = RunDir(Path(os.path.realpath(output_root() / path.expanduser())))
        for part in (run.config_file, run.checkpoints_dir):
            if not exists(part, "--resume"):
                raise UserError(
                    f"--resume got {run.path}, which has no {part.name}, so there is no run to "
                    "resume; it takes the directory of a run, as the run's first and last lines "
                    "name it"
                )
        try:
            list(run.checkpoints_dir.iterdir())
        except OSError as error:
            raise UserError(
                f"--resume got {run.path}, whose checkpoints cannot be listed ({error.strerror}); "
                "change their permissions, or restore them from a copy"
            ) from None
        try:
            run._take_lock()
            for file in (run.config_file, run.summary_file, run.tracking_file):
                if file.is_file():
                    run._found[file] = file.read_bytes()
        except OSError as error:
            raise UserError(
                f"--resume got {run.path}, where {error.filename} cannot be written "
                f"({error.strerror}); make it writable, or copy the run to where you can write"
            ) from None
        return run

    def link_latest(self, task: str) -> None:
        """Points runs/<task>-latest at this run if it is in runs/.

        A convenience: if the link cannot be made, the run continues without it.
        """
        link = self.path.with_name(f"{task}-latest")
        if self.path.parent != output_root() / "runs" or link == self.path:
            return
        try:
            former = link.readlink() if link.is_symlink() else None
            _link(link, self.path.name)
            self._link = link, former
        except OSError as error:
            _log.warning("%s is not a link to this run (%s)", link, error.strerror)

    def discard(self) -> None:
        """Undoes a start that failed.

        After `create`: removes the run and restores the -latest link. After `reopen`: restores the
        files that a start overwrites; --resume would repeat everything else it has done.
        """
        if self._found:
            for file, content in self._found.items():
                with atomic_file(file) as temp:
                    temp.write_bytes(content)
            return
        if self._link is not None:
            _lead_back(*self._link, self.path.name)
        self._lock.release()
        try:
            for path in self.path.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for path in self._made:
                if path == self.path or not any(path.iterdir()):
                    path.rmdir()
        except OSError as error:
            _log.warning("%s of a run that did not start is left (%s)", self.path, error)

    def checkpoint_dir(self, step: int) -> Path:
        return self.checkpoints_dir / f"step-{step:06d}"

    def file_sizes(self) -> dict[str, int]:
        """Size in bytes of every file that grows with the updates, by name."""
        return {file.name: file.stat().st_size for file in self._growing()}

    def cut_back(self, sizes: Mapping[str, int]) -> None:
        """Truncates those files to these sizes; files without a size are emptied."""
        for file in self._growing():
            if file.stat().st_size > sizes.get(file.name, 0):
                os.truncate(file, sizes.get(file.name, 0))

    def _growing(self) -> list[Path]:
        files = (
            self.metrics_file,
            self.samples_file,
            self.diagnostics_file,
            self.queries_file,
            self.simulated_file,
        )
        return [file for file in files if file.exists()]

    def tells_of_updates(self) -> bool:
        """Whether any update is recorded; the last line may be torn."""
        if not self.metrics_file.exists():
            return False
        with self.metrics_file.open(encoding="utf-8", errors="replace") as lines:
            return any('"phase": "train"' in line for line in lines)

    def write_config(self, text: str) -> None:
        write_atomically(self.config_file, text)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_atomically(self.summary_file, json.dumps(plain(summary), indent=2) + "\n")

    def write_profile(self, trace: Mapping[str, Any]) -> None:
        write_atomically(self.profile_file, json.dumps(plain(trace)) + "\n")

    def _take_lock(self) -> None:
        """Locks the directory until the process ends."""
        self._lock = FileLock(self.path / ".lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"{self.path} is in use by another job; wait for it, or name another directory "
                "with --run-dir"
            ) from None

    def append_metrics(self, step: int, phase: str, metrics: Mapping[str, Any]) -> None:
        """Appends a line of numbers with the current time in Unix seconds."""
        _append(self.metrics_file, [{"time": _now(), "step": step, "phase": phase, **metrics}])

    def append_diagnostics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        _append(self.diagnostics_file, rows)

    def append_queries(self, rows: Iterable[Mapping[str, Any]]) -> None:
        _append(self.queries_file, rows)

    def append_simulated(self, rows: Iterable[Mapping[str, Any]]) -> None:
        _append(self.simulated_file, rows)

    def append_restart(self, row: Mapping[str, Any]) -> None:
        _append(self.restarts_file, [{"time": _now(), **row}])

    def append_samples(self, samples: Iterable[Mapping[str, Any]]) -> None:
        _append(self.samples_file, samples)


def _make_unique(path: Path) -> Path:
    """Makes the directory, with -2, -3, ... if another run took the name in the same second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    candidate, number = path, 1
    while True:
        try:
            candidate.mkdir()
            return candidate
        except FileExistsError:
            number += 1
            candidate = path.with_name(f"{path.name}-{number}")


def _missing(path: Path) -> list[Path]:
    """Those of the path and its parents that do not exist, innermost first."""
    return [one for one in (path, *path.parents) if not one.exists()]


def _lead_back(link: Path, former: Path | None, target: str) -> None:
    """Undoes `_link`, unless another run has moved the link since."""
    if not link.is_symlink() or link.readlink() != Path(target):
        return
    if former is None:
        link.unlink()
    else:
        _link(link, str(former))


def _link(link: Path, target: str) -> None:
    """Points a symbolic link at a sibling, atomically."""
    temp = link.with_name(f".{link.name}.{os.getpid()}")
    temp.unlink(missing_ok=True)
    try:
        temp.symlink_to(target, target_is_directory=True)
        temp.replace(link)
    finally:
        temp.unlink(missing_ok=True)


def _append(file: Path, records: Iterable[Mapping[str, Any]]) -> None:
    lines = [line(record) for record in records]
    with file.open("a", encoding="utf-8") as out:
        out.write("".join(lines))


def _now() -> float:
    return round(time.time(), 3)
