"""Files that survive a power cut, and checksummed directories that reveal damage."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

COMPLETE = "COMPLETE"
"""Marker file of a published directory, written last, so that a torn directory has none. It has the
format of sha256sum, so that `sha256sum -c COMPLETE` checks the files by hand."""

# The last names in their directories: a marker that does not list them was cut off.
_ALWAYS_LISTED = ("training", "measured")

_LISTED = re.compile(r"([0-9a-f]{64})  ([^\0]+)")


def fsync(path: Path) -> None:
    """Flushes a file, or a directory's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(file: Path) -> Iterator[Path]:
    """Yields a path to write to; it becomes `file`, whole and on disk, or nothing changes."""
    temp = file.with_name(f".{file.name}.tmp")
    try:
        yield temp
        fsync(temp)
        temp.replace(file)
    finally:
        temp.unlink(missing_ok=True)
    fsync(file.parent)


def write_atomically(file: Path, text: str) -> None:
    with atomic_file(file) as temp:
        temp.write_text(text, encoding="utf-8")


def checksums(directory: Path) -> str:
    """The marker's text for the directory's current files."""
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    return "".join(
        f"{_sha256(file)}  {file.relative_to(directory).as_posix()}\n"
        for file in files
        if file != directory / COMPLETE
    )


def damage(directory: Path) -> str | None:
    """What is wrong with a published directory: which file, and how it differs from what was
    published; None if it is intact."""
    marker = directory / COMPLETE
    try:
        if not stat.S_ISREG(marker.stat().st_mode):
            return f"{marker} is not a regular file"
        lines = marker.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return f"{marker} cannot be read"
    if not lines:
        return f"{marker} is empty"
    names = set()
    for line in lines:
        listed = _LISTED.fullmatch(line)
        if listed is None:
            return f"{marker} is not a list of checksums"
        # The list may be untrusted: paths must stay below the marker and be regular files.
        place = PurePosixPath(listed[2])
        if place.is_absolute() or ".." in place.parts:
            return f"{marker} lists a path that is not below it"
        names.add(listed[2])
        file = directory / place
        try:
            if not stat.S_ISREG(file.stat().st_mode):
                return f"{file} is not a regular file"
            if _sha256(file) != listed[1]:
                return f"{file} is not as it was written"
        except FileNotFoundError:
            return f"{file} is missing"
        except OSError as error:
            return f"{file} cannot be read ({error.strerror})"
    for name in _ALWAYS_LISTED:
        if name not in names and (directory / name).exists():
            return f"{marker} does not list {name}"
    return None


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
