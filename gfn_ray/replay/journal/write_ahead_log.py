"""The write-ahead log of replay: one file of checksummed records, a snapshot and later calls.

Owns how records are framed and how damage is classified, not what a record contains.

    record = marker (4 bytes), length (u64), crc32 of length and payload (u32), payload

all little-endian. The file is published with its snapshot, whole or not at all. Each later record
is written by one append, so a killed process leaves whole records and at most the beginning of one
more. Hence the rule for bytes that are not a record: if nothing intact follows, they are the torn
end of the file and may be cut; if an intact record follows, or if they are the snapshot, the file
was damaged later, and cutting would lose acknowledged calls.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from gfn_ray.errors import UserError
from gfn_ray.storage.atomic import atomic_file

_MARKER = b"\xf5REC"
_HEAD = struct.Struct("<4sQI")
_LENGTH = struct.Struct("<Q")


class DamagedReplay(UserError):
    """A file of replay that a retry cannot read either."""


@dataclass(frozen=True)
class Contents:
    """The contents of a log.

    records: payloads, the snapshot's first, each with the offset at which its record begins.
    size: bytes of the file up to the end of the last intact record. torn: bytes after that.
    """

    records: list[tuple[int, bytes]]
    size: int
    torn: int


def framed(payload: bytes) -> bytes:
    """Frames a payload as a record; a framed snapshot is a log without calls."""
    return _HEAD.pack(_MARKER, len(payload), _checksum(payload)) + payload


def read_log(file: Path) -> Contents:
    """Reads everything up to a torn end.

    Raises DamagedReplay if the file is damaged before its end or is not a log, and OSError if it
    cannot be read.
    """
    data = file.read_bytes()
    records = []
    offset = 0
    while (payload := _payload_at(data, offset)) is not None:
        records.append((offset, payload))
        offset += _HEAD.size + len(payload)
    following = data.find(_MARKER, offset + 1)
    while following >= 0 and _payload_at(data, following) is None:
        following = data.find(_MARKER, following + 1)
    if following >= 0 or not records:
        then = f", and intact records follow at byte {following:,}" if following >= 0 else ""
        raise DamagedReplay(
            f"{file} is damaged at byte {offset:,}, in record {len(records)}{then}; restore the "
            f"file from a copy, or move {file.parent} away to start with empty replay"
        )
    return Contents(records, offset, len(data) - offset)


class WriteAheadLog:
    """Appends to a log. Once append() returns, the kernel has the record: a kill cannot lose it.

    size: bytes of the file.
    """

    def __init__(self, file: Path, size: int) -> None:
        """Opens the log in a file, cut to its first `size` bytes."""
        self._descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.ftruncate(self._descriptor, size)
        self.size = size

    @staticmethod
    def publish(file: Path, content: bytes) -> WriteAheadLog:
        """Atomically replaces the file's content, synced to disk."""
        with atomic_file(file) as temp:
            temp.write_bytes(content)
        return WriteAheadLog(file, len(content))

    def append(self, payload: bytes) -> None:
        rest = memoryview(framed(payload))
        while rest:
            written = os.write(self._descriptor, rest)  # may be short on a full disk
            self.size += written
            rest = rest[written:]

    def close(self) -> None:
        os.close(self._descriptor)


def _payload_at(data: bytes, offset: int) -> bytes | None:
    """The payload of the record at `offset`; None if there is no intact record."""
    begin = offset + _HEAD.size
    if begin > len(data):
        return None
    marker, length, checksum = _HEAD.unpack_from(data, offset)
    if marker != _MARKER or length > len(data) - begin:
        return None
    payload = data[begin : begin + length]
    return payload if _checksum(payload) == checksum else None


def _checksum(payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_LENGTH.pack(len(payload))))
