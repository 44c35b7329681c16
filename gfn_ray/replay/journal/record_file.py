"""Files of checksummed records, on which a crash or a fault of the disk shows.

Owns the format and how damage is told apart; not what a record says.

Format 2, little-endian (in format 1, records of replay had no ids of calls):

    file   = magic (8 bytes), format (u32), crc32 of those 12 bytes (u32), then records
    record = marker (4 bytes), length (u64), crc32 of length and payload (u32), payload

A record is written by one append, so a process that is killed leaves whole records and at
most the beginning of one more. Hence the rule for bytes that are no record: where nothing
intact follows them they are the torn end of the file, and may be cut; where an intact record
follows, the file was damaged later, and cutting would lose what was acknowledged.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from gfn_ray.errors import UserError
from gfn_ray.storage.durable import fsync

FORMAT = 2
_OLDEST = 1

_MAGIC = b"GFNREPLY"
_PREAMBLE = struct.Struct("<8sII")
_MARKER = b"\xf5REC"
_HEAD = struct.Struct("<4sQI")
_LENGTH = struct.Struct("<Q")


class DamagedReplay(UserError):
    """A file of replay that no further try will read."""


@dataclass(frozen=True)
class Records:
    """What a file holds.

    payloads: of each record, with the offset at which the record begins. size: bytes of the
    file up to the end of the last intact record. torn: bytes after that. version: its format.
    """

    payloads: list[tuple[int, bytes]]
    size: int
    torn: int
    version: int


def preamble(version: int = FORMAT) -> bytes:
    """The first bytes of a file."""
    start = struct.pack("<8sI", _MAGIC, version)
    return start + struct.pack("<I", zlib.crc32(start))


def framed(payload: bytes) -> bytes:
    """A payload as the record that is appended."""
    return _HEAD.pack(_MARKER, len(payload), _checksum(payload)) + payload


def read_records(file: Path) -> Records:
    """Everything up to a torn end.

    Raises DamagedReplay where the file is none of these, has a newer format, or is damaged
    before its end, and OSError where it cannot be read.
    """
    data = file.read_bytes()
    version = _version(file, data)
    payloads = []
    offset = _PREAMBLE.size
    while (payload := _payload_at(data, offset)) is not None:
        payloads.append((offset, payload))
        offset += _HEAD.size + len(payload)
    following = data.find(_MARKER, offset + 1)
    while following >= 0:
        if _payload_at(data, following) is not None:
            raise DamagedReplay(
                f"{file} is damaged at byte {offset:,}, and intact records follow at byte "
                f"{following:,}; bring the file back from a copy, or move {file.parent} away to "
                "start with an empty replay"
            )
        following = data.find(_MARKER, following + 1)
    return Records(payloads, offset, len(data) - offset, version)


class RecordWriter:
    """Appends to a file. What append() returned from is the kernel's: a kill cannot lose it."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self.size = size

    @staticmethod
    def create(file: Path) -> RecordWriter:
        """A file without records, on the disk."""
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        writer = RecordWriter(descriptor, 0)
        writer._write(preamble())
        os.fsync(descriptor)
        fsync(file.parent)
        return writer

    @staticmethod
    def reopen(file: Path, size: int) -> RecordWriter:
        """The file cut to its first `size` bytes, to go on after them."""
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.ftruncate(descriptor, size)
        return RecordWriter(descriptor, size)

    def append(self, payload: bytes) -> None:
        self._write(framed(payload))

    def close(self) -> None:
        os.close(self._descriptor)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            written = os.write(self._descriptor, rest)  # less than asked for on a full disk
            self.size += written
            rest = rest[written:]


def _version(file: Path, data: bytes) -> int:
    start = data[: _PREAMBLE.size]
    version = struct.unpack_from("<8xI", start)[0] if len(start) == _PREAMBLE.size else 0
    if start != preamble(version):
        raise DamagedReplay(
            f"{file} does not begin as a file of replay does (damaged at byte 0); bring it back "
            f"from a copy, or move {file.parent} away to start with an empty replay"
        )
    if not _OLDEST <= version <= FORMAT:
        raise DamagedReplay(
            f"{file} has format {version}, and this gfn_ray reads formats {_OLDEST} to "
            f"{FORMAT}; go on with the gfn_ray that wrote it, or move {file.parent} away to start "
            "with an empty replay"
        )
    return int(version)


def _payload_at(data: bytes, offset: int) -> bytes | None:
    """The payload of the record at `offset`; None where there is no whole, intact one."""
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
