"""Where a run is written down: its directory and its MLflow run, opened together."""

from __future__ import annotations

from gfn_ray.cli import dump_toml
from gfn_ray.config import JobConfig
from gfn_ray.runtime.display import Display
from gfn_ray.runtime.run_dir import ConfigT, RunDir, output_root, redacted, resolve_tracking_uri
from gfn_ray.tracking import Tracker


def open_books(config: ConfigT, name: str, display: Display) -> tuple[RunDir, Tracker]:
    """A new run directory with the settings in it, and an MLflow run of the same name.

    name: of the task. Whoever opens them ends the tracker. Raises UserError where one of the
    two cannot be opened.
    """
    directory = RunDir.create(config, name)
    try:
        directory.write_config(dump_toml(redacted(config)))
        display.phase("opening MLflow")
        tracker = Tracker.start(
            resolve_tracking_uri(config.tracking.uri),
            config.tracking.experiment,
            directory.path.name,
            config.model_dump(mode="json"),
            directory.untracked_file,
            artifact_root=output_root() / "mlruns",
        )
    except BaseException:
        directory.discard()
        raise
    directory.write_tracking(tracker.run_id)
    directory.link_latest(name)
    return directory, tracker


def reopen_books(config: JobConfig, directory: RunDir, display: Display) -> Tracker:
    """The MLflow run of a directory that is gone on with; the new settings are written to it.

    Raises UserError where the tracking store does not have that run.
    """
    display.phase("opening MLflow")
    tracker = Tracker.start(
        resolve_tracking_uri(config.tracking.uri),
        config.tracking.experiment,
        directory.path.name,
        config.model_dump(mode="json"),
        directory.untracked_file,
        artifact_root=output_root() / "mlruns",
        run_id=directory.read_tracking(),
    )
    directory.write_config(dump_toml(redacted(config.model_copy(update={"resume": None}))))
    directory.write_tracking(tracker.run_id)
    return tracker
