"""Directories that appear whole or not at all: checkpoints, adapters, initial measurements.

Owns the rule that nothing half-written is taken for complete, and which checkpoint is the newest.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gfn_ray.storage.atomic import COMPLETE, checksums, fsync, write_atomically

_log = logging.getLogger(__name__)
_PUBLISHED = re.compile(r"step-\d+")
_PUBLISHED_OR_BESIDE = re.compile(r"step-\d+|\.step-\d+\.(tmp|old)")


@contextmanager
def publish_directory(final: Path) -> Iterator[Path]:
    """Yields an empty directory to fill; it appears as `final`, complete, or not at all.

    Its files and, last, its marker COMPLETE are on disk before it gets its name. An older
    directory of that name is moved aside first and removed afterwards. So from the first
    publication on, a complete one always exists: as `final`, or next to it, where
    `complete_checkpoints` and `bring_back` find it.
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
        write_atomically(temp / COMPLETE, checksums(temp))
    except BaseException as error:
        shutil.rmtree(temp, ignore_errors=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(final)  # a full disk is reported without one
        raise
    if final.exists():
        final.rename(old)
    temp.rename(final)
    fsync(final.parent)
    _remove(old)


def bring_back(final: Path) -> None:
    """Gives a complete directory its name if its writer died before doing so."""
    if (final / COMPLETE).exists():
        return
    for whole in _beside(final):
        if (whole / COMPLETE).exists():
            _remove(final)
            whole.rename(final)
            fsync(final.parent)
            return


def complete_checkpoints(checkpoints_dir: Path) -> Iterator[Path]:
    """Yields the complete checkpoints, highest step first; torn ones are skipped.

    One that a dead writer left unnamed comes after the one that has its name.
    """
    for path in reversed(_by_step(checkpoints_dir, _PUBLISHED_OR_BESIDE)):
        if (path / COMPLETE).exists():
            yield path
        elif _PUBLISHED.fullmatch(path.name):
            _log.warning("checkpoint %s is torn (it has no file %s); ignored", path, COMPLETE)


def newest_complete(checkpoints_dir: Path) -> Path | None:
    """The complete checkpoint of the highest step; None if there is none."""
    return next(complete_checkpoints(checkpoints_dir), None)


def set_aside(checkpoint: Path) -> Path:
    """Renames a checkpoint so that no run finds it; returns the new path."""
    aside = checkpoint.with_name(f"{checkpoint.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    return checkpoint.rename(aside)


def prune(checkpoints_dir: Path, keep: int) -> None:
    """Keeps the newest `keep` complete checkpoints and removes everything older."""
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
    """Where a directory is filled, and where the one it replaces waits for removal."""
    return final.with_name(f".{final.name}.tmp"), final.with_name(f".{final.name}.old")


def _step(checkpoint: Path) -> int:
    return int(re.findall(r"\d+", checkpoint.name)[0])


def _remove(directory: Path) -> None:
    """Removes a directory, if it exists; the marker first, so that a remnant is never complete."""
    if directory.exists():
        (directory / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(directory)
