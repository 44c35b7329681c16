"""One MLflow run as the rest of the program sees it: calls that return at once and never fail."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gfn_ray.json_lines import plain
from gfn_ray.tracking.address import redact_uri
from gfn_ray.tracking.courier import Courier, now_ms
from gfn_ray.tracking.names import key
from gfn_ray.tracking.spool import Spool
from gfn_ray.tracking.store import open_run, quick_to_give_up

if TYPE_CHECKING:
    from mlflow import MlflowClient

RunStatus = Literal["FINISHED", "KILLED", "FAILED"]

SYSTEM_METRICS_EVERY_S = 10.0
"""Seconds between two samples of CPU, memory, disk and GPU load: 90 points in 15 minutes."""

SETTLE_LIMIT_S = 600.0
"""Longest wait at the end of a run for a store that does take what it gets, only slowly."""

_log = logging.getLogger(__name__)


class Tracker:
    """One MLflow run, from `start` to `end`."""

    def __init__(self, client: MlflowClient, run_id: str, uri: str, spool: Spool) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self.run_id = run_id
        self.uri = uri
        self._spool_file = spool.file
        self._courier = Courier(client, run_id, uri, spool)
        self._system = SystemMetricsMonitor(
            run_id, sampling_interval=SYSTEM_METRICS_EVERY_S, tracking_uri=uri
        )
        self._system.start()
        self._ended = False

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
    ) -> Tracker:
        """Open the store and begin a run, or go on with the run of this id.

        params may be nested; it is flattened to dotted names. spool_file: where data waits for
        MLflow; what an earlier process left there is delivered first. artifact_root is where a new
        experiment in a database keeps its artifacts; default: mlruns beside a sqlite file. A
        server decides for itself.

        Raises UserError where the store cannot be opened, or the file is damaged.
        """
        spool = Spool(spool_file)  # first: a run that is refused leaves no run in the store
        try:
            client, found = open_run(uri, experiment, run_name, params, artifact_root, run_id)
        except BaseException:
            spool.close()
            raise
        return Tracker(client, found, uri, spool)

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
            self._courier.post({"metrics": rows})

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to a table that MLflow's page shows; all rows have the same columns."""
        if rows:
            columns = {column: [plain(row[column]) for row in rows] for column in rows[0]}
            self._courier.post({"table": f"{name}.json", "columns": columns})

    def artifact(self, local: Path, path: str | None = None) -> None:
        """Store a file, or all files of a directory, below `path` in the run's artifacts."""
        self._courier.post({"artifact": str(local.absolute()), "below": path})

    def flush(self) -> bool:
        """Wait until MLflow has everything; False where it does not take it now."""
        return self._courier.settle(SETTLE_LIMIT_S)

    def end(self, status: RunStatus) -> None:
        """Send what is left, and close the run with a status; a second call does nothing.

        What a store does not take stays in the file, for --resume: the run is what it is without.
        """
        if self._ended:
            return
        self._ended = True
        with quick_to_give_up():
            try:
                self._system.finish()
                self._courier.post({"status": status})
                delivered = self._courier.finish(SETTLE_LIMIT_S)
            except KeyboardInterrupt:
                delivered = False
        if not delivered:
            _log.warning(
                "MLflow at %s (--tracking.uri) has not taken all of this run; the rest is in %s, "
                "and --resume %s delivers it",
                redact_uri(self.uri),
                self._spool_file,
                self._spool_file.parent,
            )
