"""One MLflow run as the rest of the program sees it: calls that return at once and never fail."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gfn_ray.errors import UserError
from gfn_ray.storage.json_lines import plain
from gfn_ray.tracking.address import reason, redact_uri
from gfn_ray.tracking.courier import Courier, now_ms
from gfn_ray.tracking.names import key
from gfn_ray.tracking.spool import Spool
from gfn_ray.tracking.store import erase, open_run, quick_to_give_up

if TYPE_CHECKING:
    from mlflow import MlflowClient

RunStatus = Literal["FINISHED", "KILLED", "FAILED"]

SYSTEM_METRICS_EVERY_S = 10.0
"""Seconds between two samples of CPU, memory, disk and GPU load: 90 points in 15 minutes."""

SETTLE_LIMIT_S = 600.0
"""Longest wait at the end of a run for a store that does take what it gets, only slowly."""

WITHDRAW_LIMIT_S = 60.0
"""Longest wait for a call that is under way when a run is withdrawn."""

_log = logging.getLogger(__name__)


class Tracker:
    """One MLflow run, from `start` to `end`."""

    def __init__(
        self,
        client: MlflowClient,
        run_id: str,
        uri: str,
        spools: tuple[Spool, Spool],
        delivery: str,
        former: str | None,
    ) -> None:
        """spools: of numbers and states, and of files and tables. former: status of a run that is
        not new."""
        from gfn_ray.tracking.system import SteadyMonitor

        self.run_id = run_id
        self.uri = uri
        self._client = client
        self._former = former
        self._delivery = delivery
        # Apart, for a store may take numbers and no files: many keep these in a place of their own.
        numbers, files = spools
        self._numbers = Courier(client, run_id, uri, numbers)
        self._files = Courier(client, run_id, uri, files, "files")
        self._system = SteadyMonitor(
            run_id,
            sampling_interval=SYSTEM_METRICS_EVERY_S,
            resume_logging=former is not None,
            tracking_uri=uri,
        )
        self._system.start()
        self._delivered: bool | None = None  # until the end

    @staticmethod
    def start(
        uri: str,
        experiment: str,
        run_name: str,
        params: Mapping[str, Any],
        spool_file: Path,
        *,
        artifact_root: Path | None = None,
        run_id: str | None = None,
        delivery: str = "stays there",
    ) -> Tracker:
        """Open the store and begin a run, or go on with the run of this id.

        params may be nested; it is flattened to dotted names. spool_file: where numbers wait for
        MLflow, and beside it (`files_beside`) files and tables; what an earlier process left there
        is delivered first. artifact_root is where a new experiment in a database keeps its
        artifacts; default: mlruns beside a sqlite file. A server decides for itself. delivery: what
        becomes of data that MLflow has not taken when the run ends, for the sentence that tells of
        it.

        Raises UserError where the store cannot be opened, or one of the two is damaged.
        """
        with ExitStack() as undo:
            # First: a run that is refused leaves no run in the store.
            numbers = undo.enter_context(closing(Spool(spool_file)))
            files = undo.enter_context(closing(Spool(files_beside(spool_file))))
            try:
                client, found, former = open_run(
                    uri, experiment, run_name, params, artifact_root, run_id
                )
                if run_id is not None and not numbers.empty:
                    # An earlier end of the run may wait there, and would be the run's state now.
                    numbers.append({"status": "RUNNING"})
            except OSError as error:
                raise UserError(
                    f"{spool_file} cannot be written ({error.strerror}); make room on its disk"
                ) from None
            undo.pop_all()
        return Tracker(client, found, uri, (numbers, files), delivery, former)

    def metrics(self, values: Mapping[str, Any], step: int) -> None:
        """Log numbers of a step; None, NaN and infinities are left out."""
        now = now_ms()
        numbers = {name: float(value) for name, value in values.items() if value is not None}
        rows = [
            [key(name), number, now, int(step)]
            for name, number in numbers.items()
            if math.isfinite(number)
        ]
        if rows:
            self._numbers.post({"metrics": rows})

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to a table that MLflow's page shows; all rows have the same columns."""
        if rows:
            columns = {column: [plain(row[column]) for row in rows] for column in rows[0]}
            self._files.post({"table": f"{name}.json", "columns": columns})

    def artifact(self, local: Path, path: str | None = None) -> None:
        """Store a file, or all files of a directory, below `path` in the run's artifacts."""
        self._files.post({"artifact": str(local.absolute()), "below": path})

    def flush(self) -> bool:
        """Wait until MLflow has everything; False where it does not take it now."""
        return self._numbers.settle(SETTLE_LIMIT_S) and self._files.settle(SETTLE_LIMIT_S)

    def end(self, status: RunStatus) -> bool:
        """Send what is left, and close the run with a status; True where MLflow has all of it.

        What a store does not take stays in the file: the run is what it is without. A second call
        does nothing, and gives the same answer.
        """
        if self._delivered is not None:
            return self._delivered
        self._numbers.post({"status": status})  # first: what comes may be interrupted
        with quick_to_give_up():
            limit = SETTLE_LIMIT_S
            try:
                self._system.finish()
            except KeyboardInterrupt:
                limit = 0.0
            self._delivered = self._finish(limit)
        if not self._delivered:
            _log.warning(
                "MLflow at %s (--tracking.uri) has not taken all of this run; the rest is in %s, "
                "and %s",
                redact_uri(self.uri),
                " and ".join(str(one.file) for one in self._couriers if one.file.exists()),
                self._delivery,
            )
        return self._delivered

    def withdraw(self) -> None:
        """MLflow as it was before `start`: without the run, or with the status that it had.

        In place of `end`, of which a later call does nothing.
        """
        if self._former is not None:
            known: dict[str, RunStatus] = {"FINISHED": "FINISHED", "KILLED": "KILLED"}
            self.end(known.get(self._former, "FAILED"))  # one that still runs there was cut off
            return
        self._delivered = False
        with quick_to_give_up():
            self._system.finish()
            for courier in self._couriers:
                courier.abandon(WITHDRAW_LIMIT_S)
            try:
                erase(self._client, self.run_id)
            except Exception as error:
                # Drivers, HTTP and SQLAlchemy each have their own exceptions; all mean the same.
                _log.warning(
                    "MLflow at %s (--tracking.uri) keeps the run %s, which did not begin: %s",
                    redact_uri(self.uri),
                    self.run_id,
                    reason(error, self.uri),
                )

    @property
    def _couriers(self) -> tuple[Courier, Courier]:
        return self._numbers, self._files

    def _finish(self, limit: float) -> bool:
        """Ends both threads, at once where that is asked for meanwhile."""
        until, delivered = time.monotonic() + limit, []
        for courier in self._couriers:
            try:
                delivered.append(courier.finish(max(0.0, until - time.monotonic())))
            except KeyboardInterrupt:
                until = 0.0
                delivered.append(False)
        return all(delivered)


def files_beside(spool_file: Path) -> Path:
    """Where files and tables wait for MLflow, beside its numbers."""
    return spool_file.with_name(f"{spool_file.name}_files")
