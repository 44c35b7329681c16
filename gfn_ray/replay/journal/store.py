"""A replay buffer that outlives its process: a snapshot, and a log of the calls since.

Owns a directory (a local disk; one process at a time) and the order of the writes in it:

    snapshot-000007   the buffer's whole state, and the settings it belongs to; one record
    log-000007        every call since that changed the buffer; one record a call
    lock              held while a process has the store open

The log holds calls, not their effects: add, sample, update_priorities, clear, in their order. The
buffer is deterministic, so the same calls on the same snapshot give the same buffer: what is
stored, what was evicted, how often each entry was drawn, its losses, and the random generator.

Promised. A call that returned is in the kernel's hands: whatever kills the process (SIGKILL,
out of memory), the restored buffer equals the one after the last call that returned, or after
the one under way, and the same draws follow. Records are not fsynced one by one: that would cost
milliseconds a call, to guard against the machine's death alone, when the run is over anyway.
Snapshots are on the disk before the old pair goes. So a power cut can take calls since the
last snapshot (as a rule those of the last half minute), and may, as blocks reach the disk in any
order, leave a log that is refused as damaged. Not promised: that a log replays to the
last bit under another version of numpy or on another kind of CPU, whose exp and log may differ.
A call without an answer may or may not have happened: made again under its id, it happens
once. An older format is read, and written as a new pair at once.

Rolling over. When the log outgrows `log_limit` and the snapshot, a new pair replaces both:
first the empty log, then the snapshot under its final name, which is the moment from which the
new pair counts, then the old pair is removed. So a crash leaves one whole pair at any moment,
the disk holds at most two snapshots and a log, and all that is written is at most doubled.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from gfn_ray.config import ReplayConfig
from gfn_ray.errors import UserError
from gfn_ray.replay.buffer import ReplayBuffer
from gfn_ray.replay.journal.answers import Answers
from gfn_ray.replay.journal.record_file import (
    FORMAT,
    DamagedReplay,
    Records,
    RecordWriter,
    framed,
    preamble,
    read_records,
)
from gfn_ray.replay.outcomes import AddReport, ReplayBatch
from gfn_ray.replay.pairs import PairFiles
from gfn_ray.storage.durable import atomic_file
from gfn_ray.storage.packed import Record, pack, unpack
from gfn_ray.storage.trajectories import unpack_trajectories

# Bytes that a log may grow to; reading 16 MiB back takes a few seconds.
LOG_LIMIT = 16 * 2**20
# A predecessor that was just killed may take a moment to be gone.
LOCK_WAIT_S = 10.0
LOCK = "lock"

# What the buffer reads of its settings; a log replayed under others would give another buffer.
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
Result = TypeVar("Result")


class ReplayStore:
    """The calls of `ReplayBuffer` that change it, each on record before it returns.

    A directory without a store gets an empty one; from any other the buffer is restored. A
    torn end of the log, left by a crash, is cut with a warning that says how many bytes.

    Raises UserError where the directory is in use, cannot be read or written, holds a damaged
    or newer store, or one of other settings. After a write has failed every further call is
    refused, for the buffer is then ahead of its log; opening the store again brings it back.
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
        self._files = PairFiles(directory)
        self._log_limit = log_limit
        self._settings = {
            **{f"replay.{name}": getattr(config, name) for name in _SETTINGS},
            "seed": seed,
            "learner.trajectories_per_query": group,
        }
        self._failure: str | None = None
        self._answers = Answers()
        self._new_buffer = partial(ReplayBuffer, config, seed, group=group)
        self._buffer = self._new_buffer()
        with self._file_errors():
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = _take_lock(directory, lock_wait)
            try:
                self._open()
            except BaseException:
                self._lock.release()
                raise

    @property
    def buffer(self) -> ReplayBuffer:
        """For reading. A change that passes the store by is not on record."""
        return self._buffer

    def add(self, block: bytes, call_id: str | None = None) -> AddReport:
        """block: scored trajectories, which go on record as they come."""
        record = {"call": "add", "id": call_id, "block": np.frombuffer(block, dtype=np.uint8)}
        return self._on_record(record, lambda: self._buffer.add(unpack_trajectories(block)))

    def sample(
        self, queries: int, per_query: int, current_version: int, call_id: str | None = None
    ) -> ReplayBatch | None:
        arguments = [queries, per_query, current_version]
        record = {"call": "sample", "id": call_id, "arguments": arguments}
        return self._on_record(record, lambda: self._buffer.sample(*arguments))

    def update_priorities(
        self,
        slots: npt.ArrayLike,
        generations: npt.ArrayLike,
        losses: npt.ArrayLike,
        call_id: str | None = None,
    ) -> int:
        record = {
            "call": "update_priorities",
            "id": call_id,
            "slots": np.asarray(slots, dtype=np.int64),
            "generations": np.asarray(generations, dtype=np.int64),
            "losses": np.asarray(losses, dtype=np.float64),
        }
        return self._on_record(
            record, lambda: self._buffer.update_priorities(slots, generations, losses)
        )

    def clear(self, call_id: str | None = None) -> None:
        """Start again with an empty buffer and its first random numbers. Of what was before, it
        knows the newest policy version alone."""
        self._on_record({"call": "clear", "id": call_id}, self._start_again)

    def snapshot(self) -> bytes:
        """The whole present state, for `start_from`."""
        record = {
            "settings": self._settings,
            "state": self._buffer.state(),
            "answers": self._answers.state(),
        }
        return preamble() + framed(pack(record))

    def close(self) -> None:
        """Let another process open the store; nothing is left to write."""
        self._log.close()
        self._lock.release()

    def _on_record(self, record: Record, call: Callable[[], Result]) -> Result:
        """A call that the buffer refuses changes nothing, and so is not logged."""
        if self._failure is not None:
            raise UserError(self._failure)
        kind, call_id = record["call"], record["id"]
        if self._answers.has(kind, call_id):
            first: Result = self._answers.of(kind, call_id)
            return first
        payload = pack(record)
        result = call()
        with self._file_errors():
            self._log.append(payload)
            self._answers.keep(kind, call_id, result)
            if self._log.size > max(self._log_limit, self._snapshot_size):
                self._begin_pair(self._number + 1)
        return result

    def _start_again(self) -> None:
        self._buffer = self._new_buffer(newest_version=self._buffer.newest_version)

    def _open(self) -> None:
        number = self._files.newest()
        if number is None:
            self._begin_pair(0)
            return
        self._restore_snapshot(self._files.snapshot(number))
        log = self._files.log(number)
        records = read_records(log)
        self._repeat_log(log, records)
        self._log = RecordWriter.reopen(log, records.size)
        self._number = number
        self._files.keep_only(number)
        if records.version < FORMAT:
            self._begin_pair(number + 1)

    def _repeat_log(self, log: Path, records: Records) -> None:
        for offset, payload in records.payloads:
            with _making_sense(log, offset):
                self._repeat(unpack(payload))
        if records.torn:
            _logger.warning(
                "%s: cut %d bytes after byte %d, the torn end that a crash left; the %d calls "
                "before it are restored",
                log,
                records.torn,
                records.size,
                len(records.payloads),
            )

    def _begin_pair(self, number: int) -> None:
        """The order of these steps is what a crash relies on; the module's docstring has it."""
        log = RecordWriter.create(self._files.log(number))
        content = self.snapshot()
        with atomic_file(self._files.snapshot(number)) as temp:
            temp.write_bytes(content)
        if number > 0:
            self._log.close()
        self._log = log
        self._number = number
        self._snapshot_size = len(content)
        self._files.keep_only(number)

    def _restore_snapshot(self, file: Path) -> None:
        records = read_records(file)
        self._snapshot_size = records.size
        content = _only_record(file, records)
        with _making_sense(file, 0):
            record = unpack(content)
            written = record["settings"]
            for name, value in self._settings.items():
                if written[name] != value:
                    raise UserError(
                        f"{name} is {value}, but replay in {self._directory} was written with "
                        f"{written[name]}; set it back, or use another run directory"
                    )
            self._buffer.restore(record["state"])
            self._answers.restore(record.get("answers", {}))  # format 1 has none

    def _repeat(self, record: Record) -> None:
        call, buffer = record["call"], self._buffer
        result: Any = None
        if call == "add":
            result = buffer.add(unpack_trajectories(record["block"].tobytes()))
        elif call == "sample":
            result = buffer.sample(*record["arguments"])
        elif call == "update_priorities":
            result = buffer.update_priorities(
                record["slots"], record["generations"], record["losses"]
            )
        elif call == "clear":
            self._start_again()
        else:
            raise ValueError(f"unknown call {call!r}")
        self._answers.keep(call, record.get("id"), result)  # format 1 has no ids

    @contextmanager
    def _file_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failure = _cannot_be_kept(self._directory, error)
            raise UserError(self._failure) from error


def start_from(directory: Path, snapshot: bytes, *, lock_wait: float = LOCK_WAIT_S) -> None:
    """A store of the state that `ReplayStore.snapshot` gave, in place of what is there."""
    with _emptied(directory, lock_wait):
        files = PairFiles(directory)
        RecordWriter.create(files.log(0)).close()
        with atomic_file(files.snapshot(0)) as temp:
            temp.write_bytes(snapshot)


def empty_store(directory: Path, *, lock_wait: float = LOCK_WAIT_S) -> None:
    """No store any more in a directory; the next one there begins anew."""
    with _emptied(directory, lock_wait):
        pass


@contextmanager
def _emptied(directory: Path, lock_wait: float) -> Iterator[None]:
    """A directory of which nothing is left but its lock, which is held meanwhile: without that
    file, another process could open a store beside one that is still open."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = _take_lock(directory, lock_wait)
        try:
            for path in directory.iterdir():
                if path.name != LOCK:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            yield
        finally:
            lock.release()
    except OSError as error:
        raise UserError(_cannot_be_kept(directory, error)) from error


def _take_lock(directory: Path, wait: float) -> FileLock:
    lock = FileLock(directory / LOCK, timeout=wait)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{directory} is in use by another process; end that one, or give this run a "
            "directory of its own with --run-dir"
        ) from None
    return lock


def _cannot_be_kept(directory: Path, error: OSError) -> str:
    return (
        f"replay cannot be kept in {directory} ({error.strerror or error}); make room or mend that"
    )


@contextmanager
def _making_sense(file: Path, offset: int) -> Iterator[None]:
    """What passed its checksum and still cannot be understood was not written by this code."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise DamagedReplay(
            f"{file}: the record at byte {offset:,} cannot be understood ({error}); it was written "
            f"by another gfn_ray: go on with that one, or move {file.parent} away to start with "
            "an empty replay"
        ) from error


def _only_record(file: Path, records: Records) -> bytes:
    """The one record of a snapshot, which is written whole, so that no end of it can be torn."""
    if records.torn or len(records.payloads) != 1:
        raise DamagedReplay(
            f"{file} is damaged at byte {records.size:,}; bring it back from a copy, or move "
            f"{file.parent} away to start with an empty replay"
        )
    return records.payloads[0][1]
