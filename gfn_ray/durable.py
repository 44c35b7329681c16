"""Files that must outlive a power cut, and directories that show when one of theirs did not."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMPLETE = "COMPLETE"
"""Marker file of a published directory; it is written last, so a torn one has none. It lists the
other files as sha256sum does, so that `sha256sum -c COMPLETE` checks them by hand, too."""

_LISTED = re.compile(r"([0-9a-f]{64})  ([^\0]+)")


def fsync(path: Path) -> None:
    """Returns once a file, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(file: Path) -> Iterator[Path]:
    """Yields a path to write to; it becomes `file`, whole and on the disk, or nothing changes."""
    temp = file.with_name(f".{file.name}.tmp")
    try:
        yield temp
        fsync(temp)
        temp.replace(file)
    finally:
        temp.unlink(missing_ok=True)
    fsync(file.parent)


def checksums(directory: Path) -> str:
    """The marker's text for what the directory now holds."""
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    return "".join(
        f"{_sha256(file)}  {file.relative_to(directory).as_posix()}\n"
        for file in files
        if file != directory / COMPLETE
    )


def damage(directory: Path) -> str | None:
    """What is wrong with a published directory: the file, and how it is not as it was published;
    None where it is whole. An empty marker, of a gfn_ray before the checksums, vouches for all.
    """
    try:
        lines = (directory / COMPLETE).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return f"{directory / COMPLETE} cannot be read"
    for line in lines:
        listed = _LISTED.fullmatch(line)
        if listed is None:
            return f"{directory / COMPLETE} is no list of checksums"
        file = directory / listed[2]
        try:
            if _sha256(file) != listed[1]:
                return f"{file} is not as it was written"
        except FileNotFoundError:
            return f"{file} is missing"
        except OSError as error:
            return f"{file} cannot be read ({error.strerror})"
    return None


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
