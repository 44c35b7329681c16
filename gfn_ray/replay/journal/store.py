"""A replay buffer that outlives its process: a snapshot and later calls in a write-ahead log.

Owns a directory (on a local disk; one process at a time) and the order of writes in it:

    wal    a snapshot of the buffer with its settings, and every later call that changed it, in
           order: add, sample, update_priorities, clear
    lock   held while a process has the store open

The log holds calls, not their effects. The buffer is deterministic, so the same calls on the same
snapshot give the same buffer: entries, evictions, draw counts, losses and random generator.

Guarantees. A call that returned is with the kernel: whatever kills the process (SIGKILL, out of
memory), the restored buffer equals the one after the last call that returned, or after the one in
progress, and the same draws follow. A call without an answer may or may not have happened; repeated
with its idempotency key, it happens once. Calls are not fsynced one by one: that would cost
milliseconds each, only to guard against a crash of the machine, which ends the run anyway.
Snapshots are fsynced. So a power cut can lose the calls since the last snapshot (usually those of
the last half minute) and, because blocks reach the disk in any order, may leave a log that is
rejected as damaged. Not guaranteed: that a log replays to the last bit under another version of
numpy or on another kind of CPU, whose exp and log may differ.

Compaction. When the calls outgrow `log_limit` and the snapshot, a log with a new snapshot and no
calls replaces the file by a rename. So a crash leaves one or the other, the disk holds at most two
snapshots and the calls, and the total written at most doubles.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from gfn_ray.config import ReplayConfig
from gfn_ray.errors import UserError
from gfn_ray.replay.buffer import ReplayBuffer
from gfn_ray.replay.journal.idempotency import IdempotencyCache
from gfn_ray.replay.journal.write_ahead_log import (
    DamagedReplay,
    WriteAheadLog,
    framed,
    read_log,
)
from gfn_ray.replay.outcomes import AddReport, ReplayBatch
from gfn_ray.storage.serialization import Record, pack, unpack
from gfn_ray.storage.trajectories import unpack_trajectories

LOG, LOCK = "wal", "lock"
FORMAT = 1
# Bytes of calls that a log may grow to; repeating 16 MiB of them takes a few seconds.
LOG_LIMIT = 16 * 2**20
# A predecessor that was just killed may take a moment to exit.
LOCK_WAIT_S = 10.0

# The settings that the buffer reads; replaying a log under others would give another buffer.
_SETTINGS = (
    "capacity",
    "per_query",
    "priority",
    "alpha",
    "recency",
    "edit_distance",
    "max_staleness",
    "max_times_sampled",
)

_logger = logging.getLogger(__name__)


class ReplayStore:
    """The calls of `ReplayBuffer` that change it, each logged before it returns.

    In a directory without a log the buffer is empty; otherwise it is restored. A torn end of the
    log, left by a crash, is cut with a warning that says how many bytes.

    key: an idempotency key; a repeated call with the same key gets the first answer.

    Raises UserError if the directory is in use or cannot be read or written, or if its log is
    damaged or of another format or other settings. After a failed write every further call is
    refused, because the buffer is ahead of its log; opening the store again restores it.
    """

    def __init__(
        self,
        directory: Path,
        config: ReplayConfig,
        seed: int,
        *,
        group: int = 8,
        log_limit: int = LOG_LIMIT,
        lock_wait: float = LOCK_WAIT_S,
    ) -> None:
        self._directory = directory
        self._file = directory / LOG
        self._log_limit = log_limit
        self._settings = {
            **{f"replay.{name}": getattr(config, name) for name in _SETTINGS},
            "seed": seed,
            "learner.trajectories_per_query": group,
        }
        self._failure: UserError | None = None
        self._answers = IdempotencyCache()
        self._new_buffer = partial(ReplayBuffer, config, seed, group=group)
        self._buffer = self._new_buffer()
        with ExitStack() as held, _file_errors(directory):
            held.enter_context(_locked(directory, lock_wait))
            if self._file.exists():
                self._restore()
            else:
                self._compact()
            self._lock = held.pop_all()

    @property
    def buffer(self) -> ReplayBuffer:
        """For reading. A change that bypasses the store is not logged."""
        return self._buffer

    def add(self, block: bytes, key: str | None = None) -> AddReport:
        """block: scored trajectories; the same bytes are logged."""
        report: AddReport = self._call("add", key, block=np.frombuffer(block, dtype=np.uint8))
        return report

    def sample(
        self, queries: int, per_query: int, current_version: int, key: str | None = None
    ) -> ReplayBatch | None:
        batch: ReplayBatch | None = self._call(
            "sample", key, arguments=[queries, per_query, current_version]
        )
        return batch

    def update_priorities(
        self,
        slots: npt.ArrayLike,
        generations: npt.ArrayLike,
        losses: npt.ArrayLike,
        key: str | None = None,
    ) -> int:
        updated: int = self._call(
            "update_priorities",
            key,
            slots=np.asarray(slots, dtype=np.int64),
            generations=np.asarray(generations, dtype=np.int64),
            losses=np.asarray(losses, dtype=np.float64),
        )
        return updated

    def clear(self, key: str | None = None) -> None:
        """Starts again with an empty buffer and its initial random state; keeps only the newest
        policy version."""
        self._call("clear", key)

    def snapshot(self) -> bytes:
        """Returns the whole current state, for `start_from`."""
        state = {
            "format": FORMAT,
            "settings": self._settings,
            "buffer": self._buffer.state(),
            "answers": self._answers.state(),
        }
        return framed(pack(state))

    def close(self) -> None:
        """Closes the store so that another process may open it; writes nothing."""
        self._log.close()
        self._lock.close()

    def _call(self, kind: str, key: str | None, **arguments: Any) -> Any:
        """Makes and logs a call. One that the buffer rejects changes nothing and is not logged."""
        if self._failure is not None:
            raise self._failure
        if key is not None and self._answers.has(kind, key):
            return self._answers.answer(kind, key)
        record = {"call": kind, "key": key, **arguments}
        payload = pack(record)
        answer = self._apply(record)
        self._answers.keep(kind, key, answer)
        try:
            with _file_errors(self._directory):
                self._log.append(payload)
                if self._log.size - self._snapshot_size > max(self._log_limit, self._snapshot_size):
                    outgrown = self._log
                    self._compact()
                    outgrown.close()
        except UserError as error:
            self._failure = error
            raise
        return answer

    def _apply(self, record: Record) -> Any:
        """Makes a logged call on the buffer; returns its value."""
        call, buffer = record["call"], self._buffer
        if call == "add":
            return buffer.add(unpack_trajectories(record["block"].tobytes()))
        if call == "sample":
            return buffer.sample(*record["arguments"])
        if call == "update_priorities":
            return buffer.update_priorities(
                record["slots"], record["generations"], record["losses"]
            )
        if call == "clear":
            self._buffer = self._new_buffer(newest_version=buffer.newest_version)
            return None
        raise ValueError(f"unknown call {call!r}")

    def _compact(self) -> None:
        """Replaces the log by one with a snapshot of the current state and no calls."""
        content = self.snapshot()
        self._log = WriteAheadLog.publish(self._file, content)
        self._snapshot_size = len(content)

    def _restore(self) -> None:
        contents = read_log(self._file)
        (_, snapshot), *calls = contents.records
        with _making_sense(self._file, 0):
            self._restore_snapshot(unpack(snapshot))
        for offset, payload in calls:
            with _making_sense(self._file, offset):
                record = unpack(payload)
                self._answers.keep(record["call"], record["key"], self._apply(record))
        if contents.torn:
            _logger.warning(
                "%s: cut %d bytes after byte %d, the torn end left by a crash; the %d calls "
                "before it are restored",
                self._file,
                contents.torn,
                contents.size,
                len(calls),
            )
        self._log = WriteAheadLog(self._file, contents.size)
        self._snapshot_size = calls[0][0] if calls else contents.size

    def _restore_snapshot(self, snapshot: Record) -> None:
        if snapshot["format"] != FORMAT:
            raise ValueError(
                f"it has format {snapshot['format']}, but this gfn_ray reads format {FORMAT}"
            )
        written = snapshot["settings"]
        for name, value in self._settings.items():
            if written[name] != value:
                raise UserError(
                    f"{name} is {value}, but replay in {self._directory} was written with "
                    f"{written[name]}; restore it, or use another run directory"
                )
        self._buffer.restore(snapshot["buffer"])
        self._answers.restore(snapshot["answers"])


def start_from(directory: Path, snapshot: bytes, *, lock_wait: float = LOCK_WAIT_S) -> None:
    """Replaces the store in a directory by a `ReplayStore.snapshot`."""
    with _file_errors(directory), _locked(directory, lock_wait):
        WriteAheadLog.publish(directory / LOG, snapshot).close()


def empty_store(directory: Path, *, lock_wait: float = LOCK_WAIT_S) -> None:
    """Removes the store in a directory; the next one there starts empty."""
    with _file_errors(directory), _locked(directory, lock_wait):
        (directory / LOG).unlink(missing_ok=True)


@contextmanager
def _locked(directory: Path, wait: float) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(directory / LOCK, timeout=wait):
            yield
    except Timeout:
        raise UserError(
            f"{directory} is in use by another process; end that process, or give this run its "
            "own directory with --run-dir"
        ) from None


@contextmanager
def _file_errors(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"replay cannot be kept in {directory} ({error.strerror or error}); free disk space or "
            "repair the disk"
        ) from error


@contextmanager
def _making_sense(file: Path, offset: int) -> Iterator[None]:
    """Handles a record that is intact but not understood: another version of the code wrote it."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise DamagedReplay(
            f"{file}: the record at byte {offset:,} cannot be understood ({error}); resume with "
            f"the gfn_ray that wrote it, or move {file.parent} away to start with empty replay"
        ) from error
