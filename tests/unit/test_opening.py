"""A run that never began leaves nothing, and MLflow does not think that it runs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from gfn_ray.errors import RunFailed, UserError
from gfn_ray.runs.checkpoints import restore_replay
from gfn_ray.runs.display import make_display
from gfn_ray.runs.opening import open_run_directory, reopen_run_directory
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.runtime.actors.worker_group import Deployment
from gfn_ray.runtime.preparing import prepare
from gfn_ray.runtime.resources.placement import Placement
from gfn_ray.runtime.run import _record
from gfn_ray.runtime.training.training_run import TrainingRun
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tasks.random_number.task import RandomNumberTask
from testing.full_disk import no_room_beyond
from testing.good_run import settings


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GFN_RAY_HOME", str(tmp_path))
    return tmp_path


def statuses(root: Path) -> list[str]:
    """Of all runs, those among them that MLflow has marked as deleted."""
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    return [
        run.info.status
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    ]


def test_a_run_that_cannot_write_its_settings_leaves_no_directory(root: Path) -> None:
    config = InfillJob()
    with (
        no_room_beyond(100),
        pytest.raises(RunFailed, match=r"cannot write .*: File too large; free disk space"),
    ):
        open_run_directory(config, "infill", make_display(1, 1))
    assert not (root / "runs").exists()


def test_a_run_that_dies_while_it_is_opened_again_has_failed_in_mlflow_too(root: Path) -> None:
    directory, tracker = open_run_directory(InfillJob(), "infill", make_display(1, 1))
    tracker.end("KILLED")
    directory._lock.release()
    again = RunDir.reopen(directory.path)
    again.config_file.unlink()
    again.config_file.mkdir()  # no file can take its place
    with pytest.raises(OSError):
        reopen_run_directory(InfillJob(), again, make_display(1, 1))
    assert statuses(root) == ["FAILED"]


@pytest.mark.parametrize("earlier", [False, True])
def test_a_start_that_is_taken_back_leaves_no_directory_no_link_and_no_mlflow_run(
    earlier: bool, root: Path
) -> None:
    if earlier:
        _, tracker = open_run_directory(InfillJob(), "infill", make_display(1, 1))
        tracker.end("FINISHED")
    before, statuses_before = left(root), statuses(root) if earlier else []
    directory, tracker = open_run_directory(InfillJob(), "infill", make_display(1, 1))
    tracker.follow()
    tracker.artifact(directory.config_file)
    directory.append_metrics(1, "before", {"loss": 1.0})
    assert tracker.flush()
    tracker.withdraw()
    directory.discard()
    tracker.end("FAILED")
    assert left(root) == before
    assert statuses(root) == statuses_before


def left(root: Path) -> dict[str, Path | None]:
    """All below the root, and where links lead; not MLflow's database, nor the directory in which
    an experiment keeps files."""
    return {
        name: path.readlink() if path.is_symlink() else None
        for path in root.rglob("*")
        if not (name := str(path.relative_to(root))).startswith("mlflow.db")
        and name not in ("mlruns", "mlruns/gfn_ray")
    }


def test_a_run_that_was_there_before_is_left_as_it_was(root: Path) -> None:
    directory, tracker = open_run_directory(InfillJob(), "infill", make_display(1, 1))
    directory.write_summary({"steps": 3})
    tracker.end("KILLED")
    directory._lock.release()
    before = contents_of_files(directory.path)
    again = RunDir.reopen(directory.path)
    tracker = reopen_run_directory(InfillJob(steps=7), again, make_display(1, 1))
    restore_replay(again, None)
    tracker.withdraw()
    again.discard()
    assert contents_of_files(directory.path) == before
    assert statuses(root) == ["KILLED"]


def contents_of_files(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in path.iterdir() if one.is_file()}


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_mistake_that_only_an_actor_sees_is_taken_back_until_there_is_something_to_keep(
    has_begun: bool, root: Path, tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(training_run: TrainingRun, *_: Any) -> None:
        training_run.has_begun = has_begun
        raise UserError("sampler.kv_cache_mb (16) is too little; raise it")

    monkeypatch.setattr(TrainingRun, "work", refused)
    config = settings(tiny_dir, root)
    display = make_display(1, 1)
    job = prepare(config, RandomNumberTask(config), display)
    deployment = Deployment("cpu", Placement(None), base=None)
    with pytest.raises(UserError) as told, ExitStack() as afterwards:
        _record(config, config, job, deployment, display, None, afterwards)
    assert (root / "run").exists() == has_begun
    assert statuses(root) == ["FAILED"] * has_begun
    assert ("; the run is in" in str(told.value)) == has_begun
