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
from gfn_ray.runs.display import make_display
from gfn_ray.runs.opening import open_run_directory, reopen_run_directory
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.runtime.run import run as run_job
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tasks.random_number.config import RandomNumberJob
from gfn_ray.tasks.random_number.task import RandomNumberTask
from gfn_ray.tracking import Tracker, TrackingState
from testing.good_run import write_run
from testing.victim import MlflowServer, await_true

LOAD = "system/cpu_utilization_percentage"


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, for the first connection takes many seconds."""
    home = tmp_path_factory.mktemp("migrated")
    tracked(f"sqlite:///{home / 'mlflow.db'}", home).end("FINISHED")
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


def tracked(uri: str, directory: Path) -> Tracker:
    root = directory / "mlruns"
    tracker = Tracker(uri, "tests", "run", {}, directory, artifact_root=root, delivery="")
    tracker.follow()
    return tracker


def losses(uri: str, run_id: str) -> list[tuple[int, float]]:
    found = MlflowClient(tracking_uri=uri).get_metric_history(run_id, "loss")
    return sorted((one.step, one.value) for one in found)


def account(directory: RunDir) -> TrackingState:
    """What MLflow has of a run, as its directory tells."""
    found = TrackingState.read(directory.path)
    assert found is not None
    return found


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
    delivered: list[int]  # bytes of the numbers, before and during
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
        directory, tracker = open_run_directory(config, "infill", make_display(1, 1, shown))
        tracker.follow()
        directory.append_metrics(1, "train", {"loss": 1.0})
        flushed, delivered = [tracker.flush()], [account(directory).numbers["metrics.jsonl"]]
        server.kill()
        for step in (2, 3):
            directory.append_metrics(step, "train", {"loss": float(step)})
        directory.append_samples([{"phase": "during", "step": 3, "z": "a"}])
        flushed.append(tracker.flush())
        delivered.append(account(directory).numbers["metrics.jsonl"])
        server.start()
        directory.append_metrics(4, "train", {"loss": 4.0})
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
        delivered,
        directory.config_file.read_text(),
        server.database,
    )


def test_what_a_killed_server_missed_arrives_once_it_is_back(outage: Outage) -> None:
    assert outage.flushed == [True, False, True]
    assert outage.delivered[0] == outage.delivered[1] < outage.directory.metrics_file.stat().st_size
    assert losses(outage.uri, outage.run_id) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert account(outage.directory).complete
    told = [one for one in outage.said if " accepts no " in one]
    assert sorted(one.split(": ")[0].split()[-1] for one in told) == ["files", "numbers"]
    assert all("the run continues" in one and str(outage.directory.path) in one for one in told)


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
    assert outage.directory.tracking_file in files and len(files) > 3
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []


def test_a_locked_database_holds_up_nobody(database: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{database}"
    run = RunDir(tmp_path)
    tracker = tracked(uri, tmp_path)
    assert tracker.flush()
    with sqlite3.connect(database, timeout=30) as other:
        other.execute("BEGIN EXCLUSIVE")
        run.append_metrics(1, "train", {"loss": 1.0})
        assert account(run).numbers == {}
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
    directory, tracker = open_run_directory(config, "infill", display)
    tracker.follow()
    assert tracker.flush()
    server.kill()
    directory.append_metrics(1, "train", {"loss": 1.0})
    assert not tracker.end("KILLED")
    assert f"--resume {directory.path} delivers it" in caplog.messages[-1]

    server.start()
    again = reopen_run_directory(config, directory, display)
    again.follow()
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
    TrackingState(run_id=run_id).save(run.path)
    run.append_metrics(1, "after", {"loss": 1.0})
    run._lock.release()

    shown = io.StringIO()
    display = make_display(4, 2, shown)
    monkeypatch.setattr("gfn_ray.runtime.run.make_display", lambda *_: display)
    config = parse(RandomNumberJob, ["--resume", str(run.path), "--steps", "4"])
    assert run_job(config, RandomNumberTask(config)) == 0
    assert "MLflow now has all of this run" in shown.getvalue()
    assert losses(f"sqlite:///{database}", run_id) == [(1, 1.0)]
    assert mlflow.get_run(run_id).info.status == "FINISHED"
    assert account(run).complete


def test_what_a_killed_process_had_logged_is_delivered_by_the_next(
    database: Path, tmp_path: Path
) -> None:
    uri = f"sqlite:///{database}"
    program = (
        "import os, signal, sqlite3\n"
        "from pathlib import Path\n"
        "from gfn_ray.runs.run_dir import RunDir\n"
        "from gfn_ray.tracking import Tracker\n"
        f"run = RunDir(Path({str(tmp_path)!r}))\n"
        f"tracker = Tracker({uri!r}, 'tests', 'run', {{}}, run.path,\n"
        "    artifact_root=run.path / 'mlruns', delivery='')\n"
        "tracker.follow()\n"
        "tracker.flush()\n"
        f"lock = sqlite3.connect({str(database)!r}, timeout=30)\n"
        "lock.execute('BEGIN EXCLUSIVE')\n"
        "run.append_metrics(1, 'train', {'loss': 1.0})\n"
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
    assert tracked(uri, tmp_path).end("FINISHED")
    assert losses(uri, run_id) == [(1, 1.0)]
