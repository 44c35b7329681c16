"""Files that must outlive a power cut."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMPLETE = "COMPLETE"
"""Marker file of a published directory; it is written last, so a torn one has none."""


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
