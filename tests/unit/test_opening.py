"""A run whose first files find no room ends with a sentence, and MLflow does not think it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from full_disk import no_room_beyond
from gfn_ray.config import InfillJob
from gfn_ray.errors import RunFailed
from gfn_ray.runtime.books import open_books, reopen_books
from gfn_ray.runtime.display import make_display
from gfn_ray.runtime.run_dir import RunDir


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GFN_RAY_HOME", str(tmp_path))
    return tmp_path


def statuses(root: Path) -> list[str]:
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    return [
        run.info.status
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id])
    ]


def test_a_run_that_cannot_write_its_settings_leaves_no_directory(root: Path) -> None:
    config = InfillJob()
    with (
        no_room_beyond(100),
        pytest.raises(RunFailed, match=r"cannot write .*: File too large; make room"),
    ):
        open_books(config, "infill", make_display(1, 1))
    assert list((root / "runs").iterdir()) == []


def test_a_run_that_dies_while_it_is_opened_again_has_failed_in_mlflow_too(root: Path) -> None:
    directory, tracker = open_books(InfillJob(), "infill", make_display(1, 1))
    tracker.end("KILLED")
    directory._lock.release()
    again = RunDir.reopen(directory.path)
    again.config_file.unlink()
    again.config_file.mkdir()  # no file can take its place
    with pytest.raises(OSError):
        reopen_books(InfillJob(), again, make_display(1, 1))
    assert statuses(root) == ["FAILED"]
