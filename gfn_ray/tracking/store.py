"""Opens a tracking store; a bad address or location fails here, at once."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfn_ray.errors import UserError
from gfn_ray.tracking.address import (
    SQL_SCHEMES,
    SQLITE_FILE,
    reason,
    redact_text,
    redact_uri,
    sqlite_path,
)
from gfn_ray.tracking.names import batches, flat, key, text

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PARAMS_PER_BATCH = 100  # MLflow's MAX_PARAMS_TAGS_PER_BATCH

# Read when MLflow is imported. Nothing may leave the machine unasked or draw over the display.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

# Defaults that the user may override. Followers have their own back-off, so MLflow's four minutes
# of retries are too long, as are two minutes for a server that accepts a call and stays silent.
_QUICK_TO_GIVE_UP = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}

# MLflow's UI calls this kind "Machine learning"; if it has to guess, it may show runs as
# evaluations of a GenAI application. The UI of 3.17 goes by the address alone.
_KIND, _TRAINING = "mlflow.experimentKind", "custom_model_development"

# Loggers silenced because our messages report a failing store, in one line without a traceback.
_LOUD = ("mlflow", "urllib3")


@dataclass(frozen=True)
class MlflowRun:
    """former: the status of a resumed run before it was resumed; None for a new one."""

    client: MlflowClient
    run_id: str
    former: str | None = None


def open_run(
    uri: str,
    experiment: str,
    run_name: str,
    params: Mapping[str, Any],
    artifact_root: Path,
    run_id: str | None,
) -> MlflowRun:
    """Opens a new run, or reopens the one with this id. Other arguments are those of Tracker.

    Raises UserError if the store does not accept a run and its parameters.
    """
    try:
        client = _open(uri)
        experiment_id = _experiment(client, uri, experiment, artifact_root)
        if run_id is not None:
            return _reopened(client, uri, run_id)
        from mlflow.tracking.context.registry import resolve_tags

        made = client.create_run(experiment_id, tags=resolve_tags(), run_name=run_name)
        run = MlflowRun(client, str(made.info.run_id))
        _fill(run, params)
        return run
    except UserError:
        raise
    except Exception as error:
        # Drivers, HTTP and SQLAlchemy each have their own exceptions; all mean the same here.
        raise UserError(
            f"--tracking.uri got {redact_uri(uri)}, which MLflow cannot open: "
            f"{reason(error, uri)}; it takes sqlite:///FILE.db or the address of a server"
        ) from error


def _open(uri: str) -> MlflowClient:
    os.environ.update(_ENVIRONMENT)
    for name, value in _QUICK_TO_GIVE_UP.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    # MLflow sets up its loggers on import; the first connection prints each migration.
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if uri.startswith(SQLITE_FILE):
        _try_sqlite(sqlite_path(uri))
    return MlflowClient(tracking_uri=uri)


def _try_sqlite(file: Path) -> None:
    """Raises at once what MLflow would retry for minutes: no such path, no permission, no
    database."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file, timeout=30.0)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()


def _artifact_location(uri: str, experiment: str, root: Path) -> str | None:
    # MLflow's default is ./mlruns, which Ray deletes with a submitted job.
    if not uri.startswith(SQL_SCHEMES):
        return None
    return (root.absolute() / key(experiment).replace(" ", "_")).as_uri()


def _experiment(client: MlflowClient, uri: str, name: str, artifact_root: Path) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        location = _artifact_location(uri, name, artifact_root)
        try:
            kind = {_KIND: _TRAINING}
            return str(client.create_experiment(name, artifact_location=location, tags=kind))
        except MlflowException as error:
            # Unless another job created it in the meantime.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return _experiment(client, uri, name, artifact_root)
    if found.lifecycle_stage != "active":
        raise UserError(
            f"--tracking.experiment got {name!r}, which was deleted in MLflow; name another, or "
            f"restore it: mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    if _KIND not in found.tags:
        client.set_experiment_tag(found.experiment_id, _KIND, _TRAINING)
    return str(found.experiment_id)


def _fill(run: MlflowRun, params: Mapping[str, Any]) -> None:
    """Writes the run's parameters, which are final."""
    from mlflow.entities import Param
    from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

    entries = [
        Param(key(name), redact_text(redact_uri(text(value)))[:MAX_PARAM_VAL_LENGTH])
        for name, value in flat(params)
    ]
    try:
        for batch in batches(entries, _PARAMS_PER_BATCH):
            run.client.log_batch(run.run_id, params=batch)
    except Exception:
        erase(run)
        raise


def erase(run: MlflowRun) -> None:
    """Removes a run with its files; a server only allows to mark it as deleted."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils.file_utils import local_file_uri_to_path

    location = run.client.get_run(run.run_id).info.artifact_uri
    run.client.delete_run(run.run_id)
    store = run.client._tracking_client.store
    if hasattr(store, "_hard_delete_run"):  # what `mlflow gc` calls
        get_artifact_repository(location).delete_artifacts()
        store._hard_delete_run(run.run_id)
        if location.startswith("file:"):  # .../RUN/artifacts, of which only RUN is left
            shutil.rmtree(Path(local_file_uri_to_path(location)).parent, ignore_errors=True)


def _reopened(client: MlflowClient, uri: str, run_id: str) -> MlflowRun:
    from mlflow.exceptions import MlflowException

    try:
        former = str(client.get_run(run_id).info.status)
        client.update_run(run_id, status="RUNNING")
        return MlflowRun(client, run_id, former)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise UserError(
            f"--tracking.uri got {redact_uri(uri)}, which has no run {run_id}; name the store in "
            "which the run was started"
        ) from None
