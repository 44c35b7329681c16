"""A store that fails in the middle of a run: nothing ends, nothing is lost, all arrives later."""

from __future__ import annotations

import io
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gfn_ray.cli import parse
from gfn_ray.config.sections import TrackingConfig
from gfn_ray.runs.books import open_books, reopen_books
from gfn_ray.runs.display import make_display
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.runtime.run import run as run_job
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tasks.random_number.config import RandomNumberJob
from gfn_ray.tasks.random_number.task import RandomNumberTask
from gfn_ray.tracking import Tracker
from gfn_ray.tracking.spool import Spool
from testing.good_run import write_run
from testing.victim import MlflowServer, await_true

LOAD = "system/cpu_utilization_percentage"


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


@pytest.fixture(scope="module")
def server(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One for all, for a start takes many seconds; who kills it starts it again."""
    home = tmp_path_factory.mktemp("server")
    shutil.copy(migrated, home / "mlflow.db")
    server = MlflowServer(home)
    server.start()
    yield server
    server.kill()


def losses(uri: str, run_id: str) -> list[tuple[int, float]]:
    found = MlflowClient(tracking_uri=uri).get_metric_history(run_id, "loss")
    return [(one.step, one.value) for one in found]


def system_step(uri: str, run_id: str) -> int:
    """Of the newest sample of the machine's load; -1 before the first."""
    found = MlflowClient(tracking_uri=uri).get_metric_history(run_id, LOAD)
    return max((one.step for one in found), default=-1)


class Heard(logging.Handler):
    """All that is warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@dataclass
class Outage:
    """A run whose server, at an address with a password, was killed and came back."""

    home: Path
    uri: str
    directory: RunDir
    run_id: str
    said: list[str]
    shown: str
    flushed: list[bool]  # before, during and after
    waiting: int  # bytes, during
    config: str
    database: Path


@pytest.fixture(scope="module")
def outage(server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    home = tmp_path_factory.mktemp("outage")
    shown, heard = io.StringIO(), Heard()
    config = InfillJob(
        run_dir=home / "run",
        tracking=TrackingConfig(uri=server.uri.replace("http://", "http://me:it's-hunter2@")),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GFN_RAY_HOME", str(home))
        patch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
        logging.getLogger().addHandler(heard)
        directory, tracker = open_books(config, "infill", make_display(1, 1, shown))
        tracker.metrics({"loss": 1.0}, 1)
        flushed = [tracker.flush()]
        server.kill()
        for step in (2, 3):
            tracker.metrics({"loss": float(step)}, step)
        tracker.table("samples", [{"z": "a"}])
        flushed.append(tracker.flush())
        waiting = directory.untracked_file.stat().st_size
        server.start()
        tracker.metrics({"loss": 4.0}, 4)
        flushed.append(tracker.flush())
        sampled = system_step(server.uri, tracker.run_id)
        await_true(
            lambda: system_step(server.uri, tracker.run_id) > sampled,
            60.0,
            "the machine's load was not sampled any more",
        )
        tracker.end("FINISHED")
        logging.getLogger().removeHandler(heard)
    yield Outage(
        home,
        server.uri,
        directory,
        tracker.run_id,
        heard.messages,
        shown.getvalue(),
        flushed,
        waiting,
        directory.config_file.read_text(),
        server.database,
    )


def test_what_a_killed_server_missed_arrives_once_it_is_back(outage: Outage) -> None:
    assert outage.flushed == [True, False, True]
    assert outage.waiting > 0
    assert losses(outage.uri, outage.run_id) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert not outage.directory.untracked_file.exists()
    (told,) = [one for one in outage.said if "takes no data" in one]
    assert "the run goes on" in told and str(outage.directory.untracked_file) in told


def test_a_password_in_the_servers_address_is_written_nowhere(outage: Outage) -> None:
    """Not in the settings, MLflow's parameters, what waits, or what is said of a dead server."""
    said = "\n".join(outage.said)
    assert "http://***@127.0.0.1" in said
    assert "http://***@127.0.0.1" in outage.config
    params = MlflowClient(outage.uri).get_run(outage.run_id).data.params
    assert params["tracking.uri"].startswith("http://***@127.0.0.1")
    assert "hunter2" not in outage.shown + said
    files = [path for path in outage.home.rglob("*") if path.is_file()]
    files += [path for path in outage.database.parent.rglob("*") if path.is_file()]
    assert outage.directory.untracked_file not in files and len(files) > 3
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []


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
    server: MlflowServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("GFN_RAY_HOME", str(tmp_path))
    config = InfillJob(run_dir=tmp_path / "run", tracking=TrackingConfig(uri=server.uri))
    display = make_display(1, 1, io.StringIO())
    directory, tracker = open_books(config, "infill", display)
    assert tracker.flush()
    server.kill()
    tracker.metrics({"loss": 1.0}, 1)
    assert not tracker.end("KILLED")
    assert f"--resume {directory.path} delivers it" in caplog.messages[-1]

    server.start()
    again = reopen_books(config, directory, display)
    assert again.flush()
    assert losses(server.uri, tracker.run_id) == [(1, 1.0)]
    mlflow = MlflowClient(server.uri)
    assert mlflow.get_run(tracker.run_id).info.status == "RUNNING", "it trains"
    assert again.end("FINISHED")
    assert mlflow.get_run(tracker.run_id).info.status == "FINISHED"


def test_resuming_a_finished_run_delivers_what_waits_and_is_no_error(
    database: Path, tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GFN_RAY_HOME", str(tmp_path))
    run = write_run(tiny_dir, tmp_path)
    run.write_summary({})
    mlflow = MlflowClient(f"sqlite:///{database}")
    run_id = mlflow.create_run(mlflow.create_experiment("finished")).info.run_id
    run.write_tracking(run_id)
    waiting = Spool(run.untracked_file)
    waiting.append({"metrics": [["loss", 1.0, 17, 1]]})
    waiting.append({"status": "FINISHED"})
    run._lock.release()

    shown = io.StringIO()
    display = make_display(4, 2, shown)
    monkeypatch.setattr("gfn_ray.runtime.run.make_display", lambda *_: display)
    config = parse(RandomNumberJob, ["--resume", str(run.path), "--steps", "4"])
    assert run_job(config, RandomNumberTask(config)) == 0
    assert "MLflow now has all of this run" in shown.getvalue()
    assert losses(f"sqlite:///{database}", run_id) == [(1, 1.0)]
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    assert not run.untracked_file.exists()


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
