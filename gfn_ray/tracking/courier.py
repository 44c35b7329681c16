"""Delivers what waits in a spool to MLflow, in its order, for as long as it takes.

Owns the thread that talks to MLflow, the tries, and what a person is told of them. An entry leaves
the spool once MLflow has it. So all of them arrive, and only what was under way when a store
failed, or could not be struck off on a full disk before a restart, may arrive twice: metrics that
MLflow keeps once for each step and time, or a table's rows.

| entry | is |
|---|---|
| {"metrics": [[name, value, milliseconds, step], ...]} | numbers of one step |
| {"table": file, "columns": {name: values}} | rows of a table |
| {"artifact": path, "below": path or null} | a file or a directory of the run |
| {"status": text} | the run's state; one with a newer one behind it is out of date, and skipped |
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfn_ray.tracking.address import reason, redact_uri
from gfn_ray.tracking.names import batches
from gfn_ray.tracking.spool import Spool

if TYPE_CHECKING:
    from mlflow import MlflowClient

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0
"""Wait after a try that failed; doubled with each further one in a row."""

_METRICS_PER_BATCH = 1000  # MLflow's MAX_METRICS_PER_BATCH
_ENTRIES_AT_ONCE = 200  # of metrics, put together to batches: a step has a few dozen

_DELETED = "must be in the 'active' state"
"""MLflow's words, under the code of a wrong value, for a run or an experiment that was deleted, and
that can be restored."""

_log = logging.getLogger(__name__)

Entry = Mapping[str, Any]


class Courier:
    """One run's. Its thread ends with `finish`, or with the process."""

    def __init__(
        self, client: MlflowClient, run_id: str, uri: str, spool: Spool, carries: str = "data"
    ) -> None:
        """carries: what a person is told that the store does not take."""
        self._carries = carries
        self._client = client
        self._run_id = run_id
        self._uri = uri
        self._spool = spool
        self._changed = threading.Condition()
        self._finishing = False
        self._failing = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    @property
    def file(self) -> Path:
        """Where entries wait."""
        return self._spool.file

    def post(self, entry: Entry) -> None:
        """Hands an entry over; returns once the file has it."""
        with self._changed:
            try:
                self._spool.append(entry)
            except OSError as error:
                self._tell(f"{self._spool.file} cannot be written ({error.strerror or error})")
            self._changed.notify_all()

    def settle(self, limit: float) -> bool:
        """Waits until MLflow has everything, or a try fails, or the time is up; True for the
        first."""
        with self._changed:
            self._failing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._spool.empty or self._failing, timeout=limit)
            return self._spool.empty

    def finish(self, limit: float) -> bool:
        """The same, and the thread ends; what is left stays in the file."""
        delivered = False
        try:
            delivered = self.settle(limit)
        finally:
            with self._changed:
                self._finishing = True
                self._changed.notify_all()
                if delivered:
                    self._spool.close()
        return delivered

    def abandon(self, limit: float) -> None:
        """The thread ends once what is under way is done; the rest stays in the file."""
        with self._changed:
            self._finishing = True
            self._changed.notify_all()
        self._thread.join(limit)

    def _work(self) -> None:
        delay = FIRST_DELAY_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._finishing or not self._spool.empty)
                if self._finishing:
                    return
            try:
                with self._changed:
                    entries = self._next()
                self._pass_on(entries)
            except Exception as error:
                # Drivers, HTTP and SQLAlchemy each have their own exceptions, and a store or a
                # disk that fails now may be back in a minute: all of them mean the same here.
                self._failed(error, delay)
                delay = min(LONGEST_DELAY_S, 2 * delay)
            else:
                delay = FIRST_DELAY_S

    def _next(self) -> list[dict[str, Any]]:
        """The oldest entry, or as many of metrics as stand together."""
        waiting = iter(self._spool)
        first = next(waiting)
        if "metrics" not in first:
            return [first]
        more = takewhile(lambda entry: "metrics" in entry, waiting)
        return [first, *islice(more, _ENTRIES_AT_ONCE - 1)]

    def _pass_on(self, entries: list[dict[str, Any]]) -> None:
        """Delivers them and takes them off; one that no store will ever take is named instead."""
        try:
            self._deliver(entries)
        except Exception as error:
            if not _is_ours(error):
                raise
            if len(entries) > 1:  # only one of them may be at fault
                for entry in entries:
                    self._pass_on([entry])
                return
            self._tell(f"MLflow does not take {_named(entries[0])}: {reason(error, self._uri)}")
        with self._changed:
            if not self._finishing:
                self._spool.drop(len(entries))
                self._changed.notify_all()

    def _failed(self, error: Exception, delay: float) -> None:
        if delay == FIRST_DELAY_S:
            self._tell(
                f"MLflow at {redact_uri(self._uri)} (--tracking.uri) takes no {self._carries}: "
                f"{reason(error, self._uri)}; the run goes on, and what MLflow is to get waits in "
                f"{self._spool.file}"
            )
        with self._changed:
            self._failing = True
            self._changed.notify_all()
            # A caller who settles wants a try at once.
            self._changed.wait_for(lambda: self._finishing or not self._failing, timeout=delay)

    def _deliver(self, entries: list[dict[str, Any]]) -> None:
        first = entries[0]
        if "metrics" in first:
            from mlflow.entities import Metric

            rows = list(chain.from_iterable(entry["metrics"] for entry in entries))
            for batch in batches(rows, _METRICS_PER_BATCH):
                self._client.log_batch(self._run_id, metrics=[Metric(*row) for row in batch])
        elif "table" in first:
            self._client.log_table(self._run_id, first["columns"], first["table"])
        elif "artifact" in first:
            local = Path(first["artifact"])
            log = self._client.log_artifacts if local.is_dir() else self._client.log_artifact
            log(self._run_id, str(local), first["below"])
        elif not self._is_outdated():
            if first["status"] == "RUNNING":
                self._client.update_run(self._run_id, status="RUNNING")
            else:
                self._client.set_terminated(self._run_id, first["status"])

    def _is_outdated(self) -> bool:
        """Whether the status that comes next has a newer one behind it."""
        with self._changed:
            return any("status" in entry for entry in islice(self._spool, 1, None))

    def _tell(self, sentence: str) -> None:
        _log.warning("%s", sentence)


def _is_ours(error: Exception) -> bool:
    """Whether the entry itself is at fault: no store will ever take it."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        # Not BAD_REQUEST: that is MLflow's name for a proxy's 400, or a database that is damaged.
        return error.error_code == "INVALID_PARAMETER_VALUE" and _DELETED not in str(error)
    return isinstance(error, FileNotFoundError)


def _named(entry: Entry) -> str:
    if "artifact" in entry:
        return f"the file {entry['artifact']}"
    return f"the table {entry['table']}" if "table" in entry else "metrics"


def now_ms() -> int:
    """Time of a metric, as MLflow wants it."""
    return int(time.time() * 1000)
