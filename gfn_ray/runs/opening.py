"""Where a run is written down: its directory and its MLflow run, opened together."""

from __future__ import annotations

from gfn_ray.cli import dump_toml
from gfn_ray.config import JobConfig, TuneBaseJob
from gfn_ray.errors import UserError
from gfn_ray.paths import output_root
from gfn_ray.runs.display import Display
from gfn_ray.runs.error_context import writing
from gfn_ray.runs.run_dir import ConfigT, RunDir, redacted, resolve_tracking_uri
from gfn_ray.tracking import Tracker, is_redacted, redact_uri


def open_run_directory(config: ConfigT, name: str, display: Display) -> tuple[RunDir, Tracker]:
    """A new run directory with the settings in it, and an MLflow run of the same name.

    name: of the task. Whoever opens them has the tracker follow, and ends it. Raises UserError
    where one of the two cannot be opened, RunFailed where the disk takes no more.
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
    """The MLflow run of a directory that is resumed; the new settings are written to it.

    Raises UserError where the tracking store does not have that run, RunFailed where the disk
    takes no more.
    """
    display.phase("opening MLflow")
    tracker = _tracker(config, directory)
    try:
        with writing():
            directory.write_config(dump_toml(redacted(config.model_copy(update={"resume": None}))))
    except BaseException:
        tracker.end("FAILED")  # MLflow shall not take a dead run for a running one
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
    """Raises UserError where a resumed run has an address that opens nothing."""
    uri = config.tracking.uri
    if is_redacted(uri):
        raise UserError(
            f"--resume got {directory.path}, which has tracking.uri {uri}, for a password is not "
            "stored; give the address with it as --tracking.uri"
        )


def delivery(config: JobConfig | TuneBaseJob, directory: RunDir) -> str:
    """What becomes of data that MLflow has not taken when the run ends."""
    if isinstance(config, TuneBaseJob):
        return "no job delivers it later; metrics.jsonl and summary.json have the same numbers"
    uri = config.tracking.uri
    login = "" if redact_uri(uri) == uri else " --tracking.uri URI, with its password,"
    return f"--resume {directory.path}{login} delivers it"
