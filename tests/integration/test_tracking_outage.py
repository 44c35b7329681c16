"""A store that fails in the middle of a run: nothing ends, nothing is lost, all arrives later."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from victim import MlflowServer

from gfn_ray.config import InfillJob
from gfn_ray.config.sections import TrackingConfig
from gfn_ray.runtime.books import open_books
from gfn_ray.runtime.display import make_display
from gfn_ray.tracking import Tracker


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, for the first connection takes many seconds."""
    home = tmp_path_factory.mktemp("migrated")
    uri = f"sqlite:///{home / 'mlflow.db'}"
    Tracker.start(uri, "warm-up", "warm-up", {}, home / "untracked").end("FINISHED")
    return home / "mlflow.db"


@pytest.fixture
def database(migrated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(migrated, tmp_path / "mlflow.db"))


@pytest.fixture
def server(database: Path) -> Any:
    server = MlflowServer(database.parent)
    server.start()
    yield server
    server.kill()


def losses(uri: str, run_id: str) -> list[tuple[int, float]]:
    found = MlflowClient(tracking_uri=uri).get_metric_history(run_id, "loss")
    return [(one.step, one.value) for one in found]


def test_what_a_killed_server_missed_arrives_once_it_is_back(
    server: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker.start(server.uri, "tests", "run", {}, tmp_path / "untracked")
    tracker.metrics({"loss": 1.0}, 1)
    assert tracker.flush()
    server.kill()
    for step in (2, 3):
        tracker.metrics({"loss": float(step)}, step)
    tracker.table("samples", [{"z": "a"}])
    assert not tracker.flush()
    assert (tmp_path / "untracked").stat().st_size > 0
    server.start()
    tracker.metrics({"loss": 4.0}, 4)
    assert tracker.flush()
    tracker.end("FINISHED")
    assert losses(server.uri, tracker.run_id) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert not (tmp_path / "untracked").exists()
    (told,) = [one for one in caplog.messages if "takes no data" in one]
    assert "the run goes on" in told and str(tmp_path / "untracked") in told


def test_a_locked_database_holds_up_nobody(database: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{database}"
    tracker = Tracker.start(uri, "tests", "run", {}, tmp_path / "untracked")
    assert tracker.flush()
    with sqlite3.connect(database, timeout=30) as other:
        other.execute("BEGIN EXCLUSIVE")
        tracker.metrics({"loss": 1.0}, 1)
        assert (tmp_path / "untracked").stat().st_size > 0
        other.rollback()
    assert tracker.flush()
    tracker.end("FINISHED")
    assert losses(uri, tracker.run_id) == [(1, 1.0)]


def test_a_store_that_never_comes_back_leaves_the_rest_to_resume(
    server: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = tmp_path / "untracked"
    tracker = Tracker.start(server.uri, "tests", "run", {}, waiting)
    assert tracker.flush()
    server.kill()
    tracker.metrics({"loss": 1.0}, 1)
    tracker.end("FINISHED")
    assert f"--resume {tmp_path} delivers it" in caplog.messages[-1]

    server.start()
    again = Tracker.start(server.uri, "tests", "run", {}, waiting, run_id=tracker.run_id)
    assert again.flush()
    assert losses(server.uri, tracker.run_id) == [(1, 1.0)]
    again.end("FINISHED")
    assert MlflowClient(server.uri).get_run(tracker.run_id).info.status == "FINISHED"


def test_what_a_killed_process_had_logged_is_delivered_by_the_next(
    database: Path, tmp_path: Path
) -> None:
    uri, waiting = f"sqlite:///{database}", tmp_path / "untracked"
    program = (
        "import os, signal, sqlite3, sys\n"
        "from pathlib import Path\n"
        "from gfn_ray.tracking import Tracker\n"
        f"tracker = Tracker.start({uri!r}, 'tests', 'run', {{}}, Path({str(waiting)!r}))\n"
        "tracker.flush()\n"
        f"lock = sqlite3.connect({str(database)!r}, timeout=30)\n"
        "lock.execute('BEGIN EXCLUSIVE')\n"
        "tracker.metrics({'loss': 1.0}, 1)\n"
        "print(tracker.run_id, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    run_id = done.stdout.strip()
    assert losses(uri, run_id) == []
    Tracker.start(uri, "tests", "run", {}, waiting, run_id=run_id).end("FINISHED")
    assert losses(uri, run_id) == [(1, 1.0)]


def test_a_password_in_the_servers_address_is_written_nowhere(
    server: MlflowServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not in the settings, MLflow's parameters, what waits, or what is said of a dead server."""
    monkeypatch.setenv("GFN_RAY_HOME", str(tmp_path))
    uri = server.uri.replace("http://", "http://me:hunter2@")
    config = InfillJob(run_dir=tmp_path / "run", tracking=TrackingConfig(uri=uri))
    shown = io.StringIO()
    directory, tracker = open_books(config, "infill", make_display(1, 1, shown))
    tracker.metrics({"loss": 1.0}, 1)
    assert tracker.flush()
    assert losses(server.uri, tracker.run_id) == [(1, 1.0)]
    server.kill()
    tracker.metrics({"loss": 2.0}, 2)
    assert not tracker.flush()
    assert "http://***@127.0.0.1" in caplog.text
    assert "http://***@127.0.0.1" in directory.config_file.read_text()
    server.start()
    tracker.end("FINISHED")

    params = MlflowClient(server.uri).get_run(tracker.run_id).data.params
    assert params["tracking.uri"].startswith("http://***@127.0.0.1")
    assert "hunter2" not in shown.getvalue() + caplog.text
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert directory.untracked_file not in files and len(files) > 3
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []
