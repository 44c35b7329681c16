"""Runs jobs as a user does, on the tiny model."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
JOBS = ROOT / "jobs"

# Longest a job on the tiny model may take, in seconds: some 60 on two quiet cores.
LIMIT = 400

# Seconds between two looks at what a job has written: a tenth of what an update takes.
POLL_S = 0.02


def tiny_flags(model: Path, home: Path, **changes: Any) -> list[str]:
    """Flags of a job that is small in every respect; outputs go below `home`."""
    settings = {
        "model.name": model,
        "run-dir": home / "run",
        "tracking.uri": f"sqlite:///{home / 'mlflow.db'}",
        "steps": 6,
        "policy.lora-rank": 8,
        "task.max-len": 24,
        "sampler.trajectories-per-query": 4,
        "sampler.queries-per-call": 2,
        "sampler.kv-cache-mb": 32,
        "sampler.max-batch": 16,
        "learner.trajectories-per-query": 4,
        "replay.min-replay": 8,
        "eval.queries": 3,
        "eval.samples": 3,
        "eval.shown": 1,
        "eval.diagnostic-queries": 0,  # 64 samples each are many for a job that is small
        "eval.simulated-queries": 0,  # the tiny model writes no stories
        "checkpoint.every": 2,
        "runtime.log-every": 2,
        **{name.replace("__", ".").replace("_", "-"): value for name, value in changes.items()},
    }
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def tiny_infill_flags(model: Path, home: Path, **changes: Any) -> list[str]:
    """The same for infilling, on the tiny model as it is and from the first update on by the
    objective."""
    settings = {
        "tune_base.steps": 0,
        "sft.steps": 0,
        "replay.seed_demonstrations": "false",
        **changes,
    }
    return tiny_flags(model, home, **settings)


def tiny_number_flags(model: Path, home: Path, **changes: Any) -> list[str]:
    """The same for random numbers from 0 to 9."""
    settings = {
        "task.high": 9,
        "sampler.trajectories-per-query": 16,
        "sampler.queries-per-call": 1,
        "sampler.max-batch": 32,
        "learner.trajectories-per-query": 16,
        "replay.min-replay": 16,
        "eval.queries": 1,
        "eval.samples": 32,
        "eval.every": 3,
        **{name.replace("__", ".").replace("_", "-"): value for name, value in changes.items()},
    }
    flags = tiny_flags(model, home)
    at = flags.index("--task.max-len")  # infill's own
    del flags[at : at + 2]
    return [
        *flags,
        *(part for name, value in settings.items() for part in (f"--{name}", str(value))),
    ]


def tiny_arithmetic_flags(model: Path, home: Path, **changes: Any) -> list[str]:
    """The same for sums of two and three numbers from 0 to 5, with an SFT."""
    settings = {
        "task.largest-operand": 5,
        "task.train-operands": "2,3",
        "task.eval-operands": "2,3",
        "task.demonstrations": 8,
        "task.problems": 8,
        "task.held-out": 4,
        "task.max-equations": 3,
        "task.reward-shots": 1,
        "sft.steps": 3,
        "learner.queries-per-step": 2,
        "eval.queries": 4,
        **{name.replace("__", ".").replace("_", "-"): value for name, value in changes.items()},
    }
    flags = tiny_flags(model, home)
    at = flags.index("--task.max-len")  # infill's own
    del flags[at : at + 2]
    return [
        *flags,
        *(part for name, value in settings.items() for part in (f"--{name}", str(value))),
    ]


def start(
    flags: list[str],
    home: Path,
    job: str = "infill",
    command: tuple[str, ...] = (),
    **variables: str,
) -> subprocess.Popen[str]:
    """The job as a process of its own; its output lands in home/out and home/err.

    command: what to run instead of the job's file. variables: of its environment.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MAKEFLAGS")}
    with (home / "out").open("w") as out, (home / "err").open("w") as err:
        return subprocess.Popen(
            [*(command or (sys.executable, str(JOBS / f"{job}.py"))), *flags],
            cwd=home,
            env={**environment, "GFN_RAY_HOME": str(home), **variables},
            stdout=out,
            stderr=err,
            text=True,
        )


def run_make(target: str, flags: list[str], home: Path, *variables: str) -> tuple[int, str, str]:
    """`make infill` and its like with these flags, as the README has it."""
    arguments = [*variables, f"ARGS={shlex.join(flags)}"]
    return _finish(start(arguments, home, command=("make", "-C", str(ROOT), target)), home)


def run(flags: list[str], home: Path, job: str = "infill") -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the finished job."""
    return _finish(start(flags, home, job), home)


def await_output(
    process: subprocess.Popen[str], home: Path, condition: Callable[[], bool], complaint: str
) -> None:
    """Blocks until the job has written what is awaited; fails where it ends or is late.

    The job's own end paces it: a loop that spins would take one of two cores from the actors.
    """
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"{complaint}: {(home / 'out').read_text()}"
        try:
            process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            continue
        assert condition(), (home / "err").read_text()


def await_update(process: subprocess.Popen[str], home: Path, number: int) -> None:
    """Blocks until so many updates of the job are on record."""
    file = home / "run" / "metrics.jsonl"

    def are_there() -> bool:
        return file.exists() and sum('"phase": "train"' in row for row in file.open()) >= number

    await_output(process, home, are_there, f"update {number} did not come in time")


def _finish(process: subprocess.Popen[str], home: Path) -> tuple[int, str, str]:
    try:
        code = process.wait(LIMIT)
    finally:
        process.kill()
    return code, (home / "out").read_text(), (home / "err").read_text()


def summary(home: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((home / "run" / "summary.json").read_text())
    return loaded


def merged_base(home: Path) -> str:
    """The directory of the model that the run's actors loaded: its base with the tuned adapter."""
    from gfn_ray.models.merged import merged_model_dir

    written = summary(home)
    return merged_model_dir(written["model"], Path(written["base_adapter"]), False)


def mlflow_run(home: Path) -> Any:
    """The one run in the job's own store."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("gfn_ray")
    (found,) = client.search_runs([experiment.experiment_id])
    return found
