"""Opens the directory of a run and its MLflow run together."""

from __future__ import annotations

from gfn_ray.config import JobConfig, TuneBaseJob
from gfn_ray.errors import UserError
from gfn_ray.paths import output_root
from gfn_ray.runs.display import Display
from gfn_ray.runs.error_context import writing
from gfn_ray.runs.run_dir import ConfigT, RunDir, redacted, resolve_tracking_uri
from gfn_ray.settings_values import dump_toml
from gfn_ray.tracking import Tracker, is_redacted, redact_uri


def open_run_directory(config: ConfigT, name: str, display: Display) -> tuple[RunDir, Tracker]:
    """Creates a run directory that holds the settings, and an MLflow run of the same name.

    name: of the task. The caller starts and ends the tracker. Raises UserError if one of the two
    cannot be opened, RunFailed if the disk is full or broken.
    """
    directory = RunDir.create(config, name)
    try:
        with writing():
            directory.write_config(dump_toml(redacted(config)))
            display.phase("opening MLflow")
            tracker = _tracker(config, directory)
    except BaseException:
        directory.discard()
        raise
    directory.link_latest(name)
    return directory, tracker


def reopen_run_directory(config: JobConfig, directory: RunDir, display: Display) -> Tracker:
    """Opens the MLflow run of a resumed directory, and writes the new settings to the directory.

    Raises UserError if the tracking store does not have that run, RunFailed if the disk is full or
    broken.
    """
    display.phase("opening MLflow")
    tracker = _tracker(config, directory)
    try:
        with writing():
            directory.write_config(dump_toml(redacted(config.model_copy(update={"resume": None}))))
    except BaseException:
        tracker.end("FAILED")  # MLflow must not show a dead run as running
        raise
    return tracker


def _tracker(config: ConfigT, directory: RunDir) -> Tracker:
    return Tracker(
        resolve_tracking_uri(config.tracking.uri),
        config.tracking.experiment,
        directory.path.name,
        config.model_dump(mode="json"),
        directory.path,
        artifact_root=output_root() / "mlruns",
        delivery=delivery(config, directory),
    )


def check_login(config: JobConfig, directory: RunDir) -> None:
    """Raises UserError if a resumed run's tracking address lacks its password."""
    uri = config.tracking.uri
    if is_redacted(uri):
        raise UserError(
            f"--resume got {directory.path}, whose tracking.uri {uri} lacks the password, which is "
            "never stored; give the whole address as --tracking.uri"
        )


def delivery(config: JobConfig | TuneBaseJob, directory: RunDir) -> str:
    """Tells the user what happens to data not yet delivered to MLflow when the run ends."""
    if isinstance(config, TuneBaseJob):
        return "no job delivers it later; metrics.jsonl and summary.json have the same numbers"
    uri = config.tracking.uri
    login = "" if redact_uri(uri) == uri else " --tracking.uri URI, with its password,"
    return f"--resume {directory.path}{login} delivers it"
