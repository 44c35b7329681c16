"""Where a run writes, and how: every file and directory of a run's outputs.

Owns the layout of a run directory, the place it goes by default, and the rule that
nothing half-written is ever taken for finished. A plain class with one writer, the
controller; knows no Ray, and not what the files hold.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from gfn_ray.config import JobConfig, TuneBaseJob
from gfn_ray.errors import UserError
from gfn_ray.places import exists, output_root
from gfn_ray.storage.durable import COMPLETE, atomic_file, checksums, fsync
from gfn_ray.storage.json_lines import line, plain
from gfn_ray.tracking import redact_uri
from gfn_ray.tracking.address import SQLITE_FILE
from gfn_ray.tracking.state import TRACKING_FILE

ConfigT = TypeVar("ConfigT", JobConfig, TuneBaseJob)

_log = logging.getLogger(__name__)
_PUBLISHED = re.compile(r"step-\d+")
_PUBLISHED_OR_BESIDE = re.compile(r"step-\d+|\.step-\d+\.(tmp|old)")


def resolve_tracking_uri(uri: str) -> str:
    """The tracking URI with a relative sqlite path made absolute below the output root."""
    path, question, query = uri.removeprefix(SQLITE_FILE).partition("?")
    if not uri.startswith(SQLITE_FILE) or path in ("", ":memory:") or path.startswith("file:"):
        return uri
    return f"{SQLITE_FILE}{output_root() / path}{question}{query}"


def redacted(config: ConfigT) -> ConfigT:
    """The settings as they may be stored: without a password in the tracking URI."""
    uri = redact_uri(config.tracking.uri)
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": uri})})


class RunDir:
    """One run's directory: config.toml, *.jsonl, summary.json, adapter/, checkpoints/, replay/."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: list[Path] = []  # by `create`: this directory, if it is new, and its parents
        self._found: dict[Path, bytes] = {}  # by `reopen`: what the start of a run overwrites
        self._link: tuple[Path, Path | None] | None = None  # and where it led before

    @staticmethod
    def create(config: JobConfig | TuneBaseJob, task: str) -> RunDir:
        """A new directory, runs/<task>-<time> unless the config names one, ready to write to."""
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
            run.checkpoints_dir.mkdir()  # also shows that the directory can be written to
        except OSError as error:
            place = f"--run-dir got {given}" if given else f"the default run directory is {path}"
            raise UserError(
                f"{place}, but {error.filename} cannot be written ({error.strerror}); "
                "name another with --run-dir"
            ) from None
        return run

    @staticmethod
    def reopen(path: Path) -> RunDir:
        """The directory of a run that ended; nothing in it is changed yet.

        What a link leads to now, for another run may move a -latest link while this one writes.
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
                "change their permissions, or bring them back from a copy"
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
        """Points runs/<task>-latest at a run that has begun, where it lies beside that.

        A convenience: where there can be no such link, the run goes on without it.
        """
        link = self.path.with_name(f"{task}-latest")
        if self.path.parent != output_root() / "runs" or link == self.path:
            return
        try:
            former = link.readlink() if link.is_symlink() else None
            _link(link, self.path.name)
            self._link = link, former
        except OSError as error:
            _log.warning("%s does not lead to this run (%s); name it in full", link, error.strerror)

    def take_back(self) -> None:
        """All as it was before a start that came to nothing.

        After `create`: no run, and the -latest link where it led. After `reopen`: the files that a
        start overwrites; what else it has done is what a --resume would do again.
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
            _log.warning("%s of a run that did not begin is left (%s)", self.path, error)

    @property
    def adapter_dir(self) -> Path:
        return self.path / "adapter"

    @property
    def checkpoints_dir(self) -> Path:
        return self.path / "checkpoints"

    @property
    def replay_dir(self) -> Path:
        return self.path / "replay"

    @property
    def bad_batches_dir(self) -> Path:
        return self.path / "bad_batches"

    def checkpoint_dir(self, step: int) -> Path:
        return self.checkpoints_dir / f"step-{step:06d}"

    @property
    def config_file(self) -> Path:
        return self.path / "config.toml"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples_file(self) -> Path:
        return self.path / "samples.jsonl"

    @property
    def diagnostics_file(self) -> Path:
        return self.path / "diagnostics.jsonl"

    @property
    def queries_file(self) -> Path:
        return self.path / "queries.jsonl"

    @property
    def restarts_file(self) -> Path:
        return self.path / "restarts.jsonl"

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.json"

    @property
    def profile_file(self) -> Path:
        return self.path / "profile.json"

    @property
    def start_dir(self) -> Path:
        return self.path / "start"

    @property
    def tracking_file(self) -> Path:
        return self.path / TRACKING_FILE

    def file_sizes(self) -> dict[str, int]:
        """Bytes of every file that only grows with the updates, by name."""
        return {file.name: file.stat().st_size for file in self._growing()}

    def cut_back(self, sizes: Mapping[str, int]) -> None:
        """Those files as they were when they had these sizes; the others go."""
        for file in self._growing():
            if file.stat().st_size > sizes.get(file.name, 0):
                os.truncate(file, sizes.get(file.name, 0))

    def _growing(self) -> list[Path]:
        files = (self.metrics_file, self.samples_file, self.diagnostics_file, self.queries_file)
        return [file for file in files if file.exists()]

    def tells_of_updates(self) -> bool:
        """Whether any update is on record; the last line may be torn."""
        if not self.metrics_file.exists():
            return False
        with self.metrics_file.open(encoding="utf-8", errors="replace") as lines:
            return any('"phase": "train"' in line for line in lines)

    def write_config(self, text: str) -> None:
        _write_atomically(self.config_file, text)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        _write_atomically(self.summary_file, json.dumps(plain(summary), indent=2) + "\n")

    def write_profile(self, trace: Mapping[str, Any]) -> None:
        _write_atomically(self.profile_file, json.dumps(plain(trace)) + "\n")

    def _take_lock(self) -> None:
        """Kept until the process ends."""
        self._lock = FileLock(self.path / ".lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise UserError(
                f"{self.path} is in use by another job; wait for it, or name another directory "
                "with --run-dir"
            ) from None

    def append_metrics(self, step: int, phase: str, metrics: Mapping[str, Any]) -> None:
        """A line of numbers, with the time (Unix seconds) at which they are written."""
        _append(self.metrics_file, [{"time": _now(), "step": step, "phase": phase, **metrics}])

    def append_diagnostics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        _append(self.diagnostics_file, rows)

    def append_queries(self, rows: Iterable[Mapping[str, Any]]) -> None:
        _append(self.queries_file, rows)

    def append_restart(self, row: Mapping[str, Any]) -> None:
        _append(self.restarts_file, [{"time": _now(), **row}])

    def append_samples(self, samples: Iterable[Mapping[str, Any]]) -> None:
        _append(self.samples_file, samples)


@contextmanager
def publish_directory(final: Path) -> Iterator[Path]:
    """Yields an empty directory to fill; it appears as `final`, complete, or not at all.

    Its files and, last, its marker COMPLETE are on disk before it gets its name. An older
    directory of the same name steps aside for it, and goes after that. So from the first
    publication on, a whole one is there at any moment: as `final`, or beside it, where
    `complete_checkpoints` sees it and `bring_back` finds it.
    """
    temp, old = _beside(final)
    bring_back(final)
    _remove(temp)
    _remove(old)
    temp.mkdir(parents=True)
    try:
        yield temp
        for path in (*temp.rglob("*"), temp):
            fsync(path)
        _write_atomically(temp / COMPLETE, checksums(temp))
    except BaseException as error:
        shutil.rmtree(temp, ignore_errors=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(final)  # a full disk is told of without one
        raise
    if final.exists():
        final.rename(old)
    temp.rename(final)
    fsync(final.parent)
    _remove(old)


def bring_back(final: Path) -> None:
    """Gives a published directory its name, where a writer died before that."""
    if (final / COMPLETE).exists():
        return
    for whole in _beside(final):
        if (whole / COMPLETE).exists():
            _remove(final)
            whole.rename(final)
            fsync(final.parent)
            return


def complete_checkpoints(checkpoints_dir: Path) -> Iterator[Path]:
    """Those that were published whole, the highest step first; torn ones are passed over.

    One that a writer who died left beside its name comes after the one of that name.
    """
    for path in reversed(_by_step(checkpoints_dir, _PUBLISHED_OR_BESIDE)):
        if (path / COMPLETE).exists():
            yield path
        elif _PUBLISHED.fullmatch(path.name):
            _log.warning("checkpoint %s is torn (it has no file %s); ignored", path, COMPLETE)


def newest_complete(checkpoints_dir: Path) -> Path | None:
    """The checkpoint of the highest step that was published whole."""
    return next(complete_checkpoints(checkpoints_dir), None)


def set_aside(checkpoint: Path) -> Path:
    """Gives a checkpoint a name that no run looks for; returns it."""
    aside = checkpoint.with_name(f"{checkpoint.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    return checkpoint.rename(aside)


def prune(checkpoints_dir: Path, keep: int) -> None:
    """Keep the newest `keep` complete checkpoints; remove all that is older than those."""
    complete = [
        path for path in _by_step(checkpoints_dir, _PUBLISHED) if (path / COMPLETE).exists()
    ]
    if len(complete) > keep:
        for path in _by_step(checkpoints_dir, _PUBLISHED_OR_BESIDE):
            if _step(path) < _step(complete[-keep]):
                _remove(path)


def _by_step(checkpoints_dir: Path, names: re.Pattern[str]) -> list[Path]:
    if not checkpoints_dir.is_dir():
        return []
    found = (path for path in checkpoints_dir.iterdir() if names.fullmatch(path.name))
    return sorted(found, key=lambda path: (_step(path), path.name))


def _beside(final: Path) -> tuple[Path, Path]:
    """Where a directory is filled, and where the one that it replaces waits to be removed."""
    return final.with_name(f".{final.name}.tmp"), final.with_name(f".{final.name}.old")


def _step(checkpoint: Path) -> int:
    return int(re.findall(r"\d+", checkpoint.name)[0])


def _make_unique(path: Path) -> Path:
    """Make the directory, with -2, -3, ... where another run took the name in the same second."""
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
    """The path and those of its parents that are not there, the innermost first."""
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
    """Point a symbolic link at a neighbour; a reader sees the old one or the new one."""
    temp = link.with_name(f".{link.name}.{os.getpid()}")
    temp.unlink(missing_ok=True)
    try:
        temp.symlink_to(target, target_is_directory=True)
        temp.replace(link)
    finally:
        temp.unlink(missing_ok=True)


def _remove(directory: Path) -> None:
    """Removes a directory, if it is there; marker first, so that half of it is never whole."""
    if directory.exists():
        (directory / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(directory)


def _now() -> float:
    return round(time.time(), 3)


def _append(file: Path, records: Iterable[Mapping[str, Any]]) -> None:
    lines = [line(record) for record in records]
    with file.open("a", encoding="utf-8") as out:
        out.write("".join(lines))


def _write_atomically(file: Path, text: str) -> None:
    with atomic_file(file) as temp:
        temp.write_text(text, encoding="utf-8")
