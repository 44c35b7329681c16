"""A run under attack: a job on the tiny model, seen from outside, as its user sees it.

Owns the processes of one run (the job, its actors, an MLflow server on loopback) and the reading
of what they leave behind. Knows nothing of faults.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from gfn_ray.cli import parse
from gfn_ray.replay.journal.store import ReplayStore
from gfn_ray.runs.checkpoints import TRAINING_FILE
from gfn_ray.runs.published import newest_complete
from gfn_ray.storage.serialization import unpack
from gfn_ray.tasks.random_number.config import RandomNumberJob
from testing.job_runner import JOBS
from testing.processes import actor_processes, command
from testing.sockets import free_ports

ACTORS = {
    "sampler": "SamplerActor",
    "reward": "RewardActor",
    "replay": "ReplayActor",
    "learner": "LearnerActor",
}

POLL_S = 0.05


class Lost(Exception):
    """The run ended, or did not get on within its time."""


class MlflowServer:
    """A tracking server that can be killed and started again over the same database."""

    def __init__(self, home: Path) -> None:
        self.database = home / "mlflow.db"
        self._home = home
        (self._port,) = free_ports(1)
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self, limit: float = 180.0) -> None:
        """Returns once it answers."""
        with (self._home / "mlflow.log").open("a") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
                    *("--host", "127.0.0.1", "--port", str(self._port)),
                    *("--backend-store-uri", f"sqlite:///{self.database}"),
                    *("--artifacts-destination", str(self._home / "mlruns")),
                ],
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "MLFLOW_DISABLE_TELEMETRY": "true",
                    "DO_NOT_TRACK": "1",
                    # Half a dozen further processes, for jobs that nobody here gives it.
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                },
            )
        await_true(self._answers, limit, "the MLflow server did not start")

    def kill(self) -> None:
        end_tree(self._process.pid)
        self._process.wait(30)

    def _answers(self) -> bool:
        try:
            # The address is this class's own: http, on loopback.
            reply = urlopen(f"{self.uri}/health", timeout=5)  # nosec B310
            return bool(reply.status == 200)
        except (URLError, OSError):
            return False


class Victim:
    """flags: of jobs/random_number.py, run-dir and tracking.uri among them, below `home`."""

    def __init__(self, home: Path, flags: list[str]) -> None:
        self.home = home
        self.run_dir = home / "run"
        self.checkpoints = self.run_dir / "checkpoints"
        self._base = 0
        self._begin(flags)

    def _begin(self, flags: list[str]) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        with (self.home / "out").open("a") as out, (self.home / "err").open("a") as err:
            self.process = subprocess.Popen(
                [sys.executable, str(JOBS / "random_number.py"), *flags],
                cwd=self.home,
                env={**environment, "GFN_RAY_HOME": str(self.home)},
                stdout=out,
                stderr=err,
            )

    def go_on(self) -> None:
        """The run again, from what the last process left."""
        newest = newest_complete(self.checkpoints)
        assert newest is not None, "the run had no checkpoint to go on from"
        training = unpack((newest / TRAINING_FILE).read_bytes())
        self._base = int(training["controller"]["trajectories"])
        self._begin(["--resume", str(self.run_dir)])

    def kill(self) -> None:
        """All of it at once, as when a machine's user is logged out."""
        end_tree(self.process.pid)
        self.process.wait(30)

    @property
    def step(self) -> int:
        """Updates that were ever recorded; a resumed run repeats those after its checkpoint."""
        return int(self._last_update().get("step", 0))

    @property
    def restarts(self) -> list[dict[str, Any]]:
        return _rows(self.run_dir / "restarts.jsonl")

    @property
    def summary(self) -> dict[str, Any] | None:
        file = self.run_dir / "summary.json"
        return json.loads(file.read_text()) if file.exists() else None

    def output(self) -> str:
        """All that the run has printed."""
        return (self.home / "out").read_text()

    def actor(self, kind: str) -> psutil.Process:
        """The process of an actor that works; waits for one where it is on its way back."""
        found: list[psutil.Process] = []

        def is_there() -> bool:
            found[:] = self._actors(kind)
            return bool(found)

        self.wait(is_there, 120.0, f"there is no {kind} process")
        return found[-1]

    def gcs_address(self) -> str:
        """Where other processes join the run's Ray cluster."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            for word in command(process):
                if word.startswith("--gcs-address="):
                    return word.partition("=")[2]
        raise Lost("the run has no Ray cluster")

    def wait(self, condition: Callable[[], bool], limit: float, complaint: str) -> None:
        """Raises Lost where the run ends before, or the time is up."""

        def met() -> bool:
            if condition():
                return True
            if self.process.poll() is not None:
                raise Lost(f"the run ended with exit code {self.process.returncode}")
            return False

        await_true(met, limit, complaint)

    def acknowledged(self) -> int:
        """Trajectories that replay had taken since the job began or went on, by its last update."""
        return int(self._last_update().get("train/trajectories_sampled", self._base)) - self._base

    def stored(self) -> int:
        """Trajectories that ever reached replay, by its files; the run must not be alive."""
        return stored_in(self.run_dir)

    def _last_update(self) -> dict[str, Any]:
        rows = [row for row in _rows(self.run_dir / "metrics.jsonl") if row["phase"] == "train"]
        return rows[-1] if rows else {}

    def _actors(self, kind: str) -> list[psutil.Process]:
        return actor_processes(self.process.pid, ACTORS[kind])


def await_true(condition: Callable[[], bool], limit: float, complaint: str) -> None:
    """Raises Lost where it is not true in time."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise Lost(f"{complaint} within {limit:g} s")
        time.sleep(POLL_S)


def end_tree(pid: int) -> None:
    """SIGKILL for a process of ours and all that it started."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue  # it went with its parent
    psutil.wait_procs(family[1:], timeout=30)


def _rows(file: Path) -> list[dict[str, Any]]:
    """Whole lines only: the last one may be under way."""
    if not file.exists():
        return []
    lines = file.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def stored_in(run_dir: Path) -> int:
    """Trajectories that ever reached the replay of a run of random numbers, by a copy of its
    files; the run must not be alive."""
    config = parse(RandomNumberJob, ["--config", str(run_dir / "config.toml")])
    with TemporaryDirectory() as scratch:
        copy = shutil.copytree(run_dir / "replay", Path(scratch) / "replay")
        group = config.learner.trajectories_per_query
        store = ReplayStore(copy, config.replay, config.seed, group=group)
        counts = store.buffer.stats()
        store.close()
    return int(counts["inserted"] + counts["duplicates"])
