"""A synchronous run ends with the same policy, bit for bit, whatever is killed on the way."""

import json
import signal

import psutil
import pytest

from job_runner import LIMIT, await_output, mlflow_run, run, start, summary, tiny_number_flags
from processes import actor_processes

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

STEPS = 28
EVERY = 4  # updates between two checkpoints, and two deaths
ACTORS = ("SamplerActor", "RewardActor", "LearnerActor", "ReplayActor")

# What depends on the clock, or counts what happened to the processes.
UNSTABLE = ("seconds", "tokens_per_s")


def flags(model, home):
    settings = {
        "steps": STEPS,
        "learner.lr": "1e-2",
        "max-policy-lag": 0,
        "eval.every": 0,
        "checkpoint.every": EVERY,
        "replay.max-times-sampled": 1,  # every update needs every actor
        "replay.samples-per-insert": 1,
    }
    return tiny_number_flags(
        model, home, **{k.replace("-", "_").replace(".", "__"): v for k, v in settings.items()}
    )


def metrics(home):
    """Every number of every phase that a run's clock has no part in."""
    found = []
    for line in (home / "run" / "metrics.jsonl").open():
        row = json.loads(line)
        found.append({k: v for k, v in row.items() if not k.endswith(UNSTABLE)})
    return found


def adapter(home):
    return (home / "run" / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tiny_dir, tmp_path_factory):
    home = tmp_path_factory.mktemp("undisturbed")
    code, _, err = run(flags(tiny_dir, home), home, "random_number")
    assert code == 0, err
    assert summary(home)["restarts"] == 0
    return home


def await_update(home, process, step):
    """Blocks until so many updates are on record."""
    file = home / "run" / "metrics.jsonl"

    def are_there():
        return file.exists() and sum('"phase": "train"' in row for row in file.open()) >= step

    await_output(process, home, are_there, f"update {step} did not come in time")


def test_what_dies_on_the_way_changes_nothing(undisturbed, tiny_dir, tmp_path):
    """Sampler, reward actor, learner and replay are killed in turn in the middle of training, and
    then the job itself with all that it started; another process goes on."""
    process = start(flags(tiny_dir, tmp_path), tmp_path, "random_number")
    try:
        for number, actor in enumerate(ACTORS):
            await_update(tmp_path, process, 3 + EVERY * number)
            (victim,) = actor_processes(process.pid, actor)
            victim.kill()
        await_update(tmp_path, process, STEPS - 2 * EVERY)
        process.send_signal(signal.SIGSTOP)  # it must not end while its processes are listed
        family = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.wait(LIMIT)
    for orphan in family:
        if orphan.is_running():
            orphan.kill()
    assert not (tmp_path / "run" / "summary.json").exists(), "it was killed on the way"
    begun = mlflow_run(tmp_path).info.run_id

    code, out, err = run(["--resume", str(tmp_path / "run")], tmp_path, "random_number")
    assert code == 0, err
    assert "going on after update" in out
    assert metrics(tmp_path) == metrics(undisturbed)
    assert adapter(tmp_path) == adapter(undisturbed)
    restarts = [json.loads(line) for line in (tmp_path / "run" / "restarts.jsonl").open()]
    assert [row["number"] for row in restarts] == [1, 2, 3, 4]
    assert [row["actor"] for row in restarts] == [
        "sampler 0",
        "reward actor 0",
        "the learner",
        "replay",
    ]
    assert all("died while it had to" in row["cause"] for row in restarts)
    assert mlflow_run(tmp_path).data.metrics["runtime/restarts"] == 4
    assert mlflow_run(tmp_path).info.run_id == begun
    assert mlflow_run(tmp_path).info.status == "FINISHED"
