"""The files of a replay store: pairs of a snapshot and the log of calls since.

Owns their names, and which of them count after a crash. Snapshots are published whole, so the
newest one there is decides: its pair counts, and any other file was to be removed or is the
beginning of a pair that was never finished.
"""

from __future__ import annotations

import re
from pathlib import Path

from gfn_ray.replay.journal.record_file import DamagedReplay, preamble
from gfn_ray.storage.durable import fsync

_NAME = re.compile(r"(snapshot|log)-(\d{6,})")


class PairFiles:
    """Snapshot and log by number, in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def snapshot(self, number: int) -> Path:
        return self.directory / f"snapshot-{number:06d}"

    def log(self, number: int) -> Path:
        return self.directory / f"log-{number:06d}"

    def newest(self) -> int | None:
        """Number of the pair that counts; None where there is none yet.

        Raises DamagedReplay where a file is missing that no crash can have taken: newer than the
        newest snapshot is at most a log without records.
        """
        logs = self._numbers("log")
        newest = max(self._numbers("snapshot"), default=-1)
        for number in logs:
            if number > newest and self.log(number).stat().st_size > len(preamble()):
                raise self._missing(self.snapshot(number))
        if newest < 0:
            return None
        if newest not in logs:
            raise self._missing(self.log(newest))
        return newest

    def keep_only(self, number: int) -> None:
        """Remove every other pair."""
        for kind, file in (("log", self.log), ("snapshot", self.snapshot)):
            for other in self._numbers(kind):
                if other != number:
                    file(other).unlink()
        fsync(self.directory)

    def _numbers(self, kind: str) -> list[int]:
        found = (_NAME.fullmatch(path.name) for path in self.directory.iterdir())
        return sorted(int(match[2]) for match in found if match and match[1] == kind)

    def _missing(self, file: Path) -> DamagedReplay:
        return DamagedReplay(
            f"{file} is missing, and replay cannot be restored without it; bring it back from a "
            f"copy, or move {self.directory} away to start with an empty replay"
        )
