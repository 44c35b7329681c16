"""MLflow: one run's parameters, metrics, sample tables and artifacts.

Owns all talk with MLflow, from one writer thread, so that a training step never waits
for a database. Knows nothing of what the numbers mean. MLflow is imported when a run
starts, not before: the import alone takes seconds.
"""

from __future__ import annotations

import logging
import math
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gfn_ray.errors import RunFailed, UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

RunStatus = Literal["FINISHED", "KILLED", "FAILED"]

SYSTEM_METRICS_EVERY_S = 10.0
"""Seconds between two samples of CPU, memory, disk and GPU load: 90 points in 15 minutes."""

SEND_LIMIT_S = 600.0
"""Longest wait for MLflow to take what was logged; its own retries give up after 4 minutes."""

_log = logging.getLogger(__name__)
_SQLITE_FILE = "sqlite:///"
_SQL_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")
_LONGEST_KEY = 250  # MLflow's MAX_ENTITY_KEY_LENGTH
_PARAMS_PER_BATCH = 100  # MLflow's MAX_PARAMS_TAGS_PER_BATCH
_METRICS_PER_BATCH = 1000  # MLflow's MAX_METRICS_PER_BATCH
_SECRET_QUERY = re.compile(r"(?i)([?&][^=&]*(?:pass|pwd|token|secret|key|sig)[^=&]*=)[^&\s]+")
_SECRET_LOGIN = re.compile(r"(?i)\b((?!sqlite|file)[a-z][\w+.-]*://)[^\s'\"]*@")


def redact_uri(text: str) -> str:
    """The URI, or a text with URIs in it, without user names, passwords and tokens."""
    return _SECRET_QUERY.sub(r"\1***", _SECRET_LOGIN.sub(r"\1***@", text))


class Tracker:
    """One MLflow run, from `start` to `end`."""

    def __init__(self, client: MlflowClient, run_id: str, uri: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self.run_id = run_id
        self.uri = uri
        self._client = client
        self._waiting: list[Metric] = []
        self._sent: list[Future[None]] = []
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")
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
        *,
        artifact_root: Path | None = None,
        run_id: str | None = None,
    ) -> Tracker:
        """Open the store and begin a run, or go on with the run of this id.

        params may be nested; it is flattened to dotted names. artifact_root is where a new
        experiment in a database keeps its artifacts; default: mlruns beside a sqlite file.
        A server decides for itself.
        """
        try:
            with _quick_to_give_up():
                client = _open(uri)
                from mlflow.tracking.context.registry import resolve_tags

                experiment_id = _experiment(client, uri, experiment, artifact_root)
                if run_id is None:
                    run = client.create_run(experiment_id, tags=resolve_tags(), run_name=run_name)
                else:
                    run = _reopened(client, uri, run_id)
        except UserError:
            raise
        except Exception as error:
            # Drivers, HTTP and SQLAlchemy each have their own exceptions; all mean the same here.
            raise UserError(
                f"--tracking.uri got {redact_uri(uri)}, which MLflow cannot open: "
                f"{_reason(error)}; it takes sqlite:///FILE.db or the address of a server"
            ) from error
        tracker = Tracker(client, run.info.run_id, uri)
        if run_id is None:  # a run's parameters are for good
            tracker._params(params)
        return tracker

    def metrics(self, values: Mapping[str, Any], step: int) -> None:
        """Log numbers of a step; None, NaN and infinities are left out. Returns at once."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        numbers = {key: float(value) for key, value in values.items() if value is not None}
        self._waiting += [
            Metric(_key(key), number, now, int(step))
            for key, number in numbers.items()
            if math.isfinite(number)
        ]
        # While one batch is under way the next gathers, so a slow store gets larger batches.
        if not self._sent or self._sent[-1].done():
            self._send_waiting()

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to a table that MLflow's page shows; all rows have the same columns."""
        if rows:
            columns = {key: [row[key] for row in rows] for key in rows[0]}
            self._send(partial(self._client.log_table, self.run_id, columns, f"{name}.json"))

    def artifact(self, local: Path, path: str | None = None) -> None:
        """Store a file, or all files of a directory, below `path` in the run's artifacts."""
        log = self._client.log_artifacts if local.is_dir() else self._client.log_artifact
        self._send(partial(log, self.run_id, str(local), path))

    def flush(self) -> None:
        """Wait until MLflow has everything."""
        self._send_waiting()
        self._check(wait=True)

    def end(self, status: RunStatus) -> None:
        """Send what is left, and close the run with a status; a second call does nothing."""
        if self._ended:
            return
        self._ended = True
        lost: RunFailed | None = None
        try:
            self.flush()
        except RunFailed as error:
            lost = error
        except KeyboardInterrupt:
            _log.warning("interrupted again: the last metrics are given up")
        try:
            with _quick_to_give_up():
                self._system.finish()
                self._client.set_terminated(self.run_id, "FAILED" if lost else status)
        except Exception as error:
            lost = lost or self._lost(error)
        self._writer.shutdown(wait=False, cancel_futures=True)
        if lost and status == "FINISHED":
            raise lost
        if lost:  # the run ends for a reason of its own, which this one must not hide
            _log.warning("%s", lost)

    def _params(self, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

        entries = [
            Param(_key(key), redact_uri(_text(value))[:MAX_PARAM_VAL_LENGTH])
            for key, value in _flat(params)
        ]
        for batch in _batches(entries, _PARAMS_PER_BATCH):
            self._send(partial(self._client.log_batch, self.run_id, params=batch))

    def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for batch in _batches(waiting, _METRICS_PER_BATCH):
            self._send(partial(self._client.log_batch, self.run_id, metrics=batch))

    def _send(self, call: Callable[[], Any]) -> None:
        self._check(wait=False)
        self._sent.append(self._writer.submit(call))

    def _check(self, *, wait: bool) -> None:
        """Raise what went wrong in the writer thread, after all that was sent where asked."""
        deadline = time.monotonic() + SEND_LIMIT_S
        while self._sent and (wait or self._sent[0].done()):
            try:
                self._sent.pop(0).result(timeout=max(0.0, deadline - time.monotonic()))
            except Exception as error:
                raise self._lost(error) from error

    def _lost(self, error: Exception) -> RunFailed:
        return RunFailed(
            f"MLflow at {redact_uri(self.uri)} (--tracking.uri) takes no more data: "
            f"{_reason(error)}; the run directory has all metrics so far"
        )


def _open(uri: str) -> MlflowClient:
    # Read at import. Nothing of a run leaves the machine unasked, nor draws over the display.
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="1")
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    from mlflow import MlflowClient

    # MLflow sets its loggers up at import; the first connection prints each migration.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if uri.startswith(_SQLITE_FILE):
        _try_sqlite(_sqlite_path(uri))
    return MlflowClient(tracking_uri=uri)


def _sqlite_path(uri: str) -> Path:
    return Path(uri.removeprefix(_SQLITE_FILE).partition("?")[0])


def _try_sqlite(file: Path) -> None:
    """Raise now what MLflow would retry for minutes: no such place, no permission, no database."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file, timeout=30.0)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()


@contextmanager
def _quick_to_give_up() -> Iterator[None]:
    """Seconds, not four minutes, for a server that is not there; set variables are respected."""
    limits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}
    added = {name: value for name, value in limits.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _artifact_location(uri: str, experiment: str, root: Path | None) -> str | None:
    # Left to itself MLflow takes ./mlruns, which for a submitted job is a directory that Ray
    # deletes.
    if uri.startswith(_SQLITE_FILE) and root is None:
        root = _sqlite_path(uri).parent / "mlruns"
    if root is None or not uri.startswith(_SQL_SCHEMES):
        return None
    return (root.absolute() / _key(experiment).replace(" ", "_")).as_uri()


def _experiment(client: MlflowClient, uri: str, name: str, artifact_root: Path | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        location = _artifact_location(uri, name, artifact_root)
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            # Another job made it in between.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return _experiment(client, uri, name, artifact_root)
    if found.lifecycle_stage != "active":
        raise UserError(
            f"--tracking.experiment got {name!r}, which was deleted in MLflow; name another, or "
            f"restore it: mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    return str(found.experiment_id)


def _reopened(client: MlflowClient, uri: str, run_id: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        client.update_run(run_id, status="RUNNING")
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise UserError(
            f"--tracking.uri got {redact_uri(uri)}, which has no run {run_id}; name the store that "
            "the run was begun in"
        ) from None


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: Any) -> str:
    """A setting as its flag would spell it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _key(name: str) -> str:
    """A name that MLflow takes: its characters, and no path that means another one."""
    parts = re.sub(r"[^/\w.\- :]", "_", name)[:_LONGEST_KEY].split("/")
    kept = [part if part.strip(".") else "_" * len(part) for part in parts if part]
    return "/".join(kept) or "_"


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _reason(error: BaseException) -> str:
    """One line: the system's own words, which MLflow wraps in a paragraph, where there are any."""
    root, link = error, error
    while link := link.__cause__ or link.__context__:  # type: ignore[assignment]
        root = link if isinstance(link, OSError) else root
    lines = redact_uri(str(root)).strip().splitlines()
    return lines[0][:160] if lines else type(root).__name__  # a TimeoutError says nothing
