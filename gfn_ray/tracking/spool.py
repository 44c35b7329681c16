"""A queue of entries in a file: what waits for delivery outlives its process.

Format: lines of a checksum (crc32 in eight hexadecimal digits), a space, and JSON: an entry, or
{"delivered": BYTES}, which says that all before that place in the file has been delivered. A line
is written by one append, so a process that is killed leaves whole lines and at most the beginning
of one more, which is cut when the file is opened again. A queue that runs empty empties its file.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gfn_ray.errors import UserError
from gfn_ray.storage.json_lines import line

_DELIVERED = "delivered"


class Spool:
    """First in, first out; used by one thread at a time. Memory: one line."""

    def __init__(self, file: Path) -> None:
        """Opens the file, with all that waits in it; raises UserError where it is damaged."""
        self.file = file
        try:
            self._lines = file.open("a+b", buffering=0)
        except OSError as error:
            raise UserError(
                f"{file} cannot be written ({error.strerror}); move it away, or make it writable"
            ) from None
        self._delivered = 0  # bytes
        self._check()
        self._settle()

    @property
    def empty(self) -> bool:
        return self._delivered == self._size()

    def append(self, entry: Mapping[str, Any]) -> None:
        """Raises OSError where the disk does not take all of it; then nothing of it is there."""
        text = line(entry).encode()
        encoded = _checksum(text) + text
        size = self._size()
        written = self._lines.write(encoded)
        if written != len(encoded):
            self._lines.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.file))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """What waits, the oldest first."""
        return (entry for _, entry in self._waiting())

    def drop(self, entries: int) -> None:
        """So many of the oldest are delivered.

        The line that says so only saves work: where a full disk does not take it, they come again
        after a restart, and once from this object all the same.
        """
        waiting = self._waiting()
        for _ in range(entries):
            self._delivered, _ = next(waiting)
        self._settle()
        if not self.empty:
            with suppress(OSError):
                self.append({_DELIVERED: self._delivered})

    def close(self) -> None:
        """Leaves no file where nothing waits."""
        empty = self.empty
        self._lines.close()
        if empty:
            self.file.unlink(missing_ok=True)  # its directory may have been removed

    def _settle(self) -> None:
        if next(self._waiting(), None) is None:
            self._lines.truncate(0)
            self._delivered = 0

    def _size(self) -> int:
        return os.fstat(self._lines.fileno()).st_size

    def _waiting(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Entries with the place where each ends."""
        with self.file.open("rb") as lines:
            lines.seek(self._delivered)
            for encoded in lines:
                entry = _read(encoded)
                if _DELIVERED not in entry:
                    yield lines.tell(), entry

    def _check(self) -> None:
        end = 0
        with self.file.open("rb") as lines:
            for number, encoded in enumerate(lines, start=1):
                if not encoded.endswith(b"\n"):
                    self._lines.truncate(end)
                    return
                try:
                    self._delivered = _read(encoded).get(_DELIVERED, self._delivered)
                except ValueError as error:
                    raise UserError(
                        f"{self.file}, line {number} is damaged ({error}); remove the file to go "
                        "on without what MLflow has not been told"
                    ) from None
                end += len(encoded)


def _checksum(text: bytes) -> bytes:
    return b"%08x " % zlib.crc32(text)


def _read(encoded: bytes) -> dict[str, Any]:
    """The JSON object of a line. Raises ValueError where it is not as it was written."""
    text = encoded[len(_checksum(b"")) :]
    if not encoded.startswith(_checksum(text)):
        raise ValueError("its checksum is another")
    entry: dict[str, Any] = json.loads(text)
    return entry
