"""A synchronous run ends with the same policy, bit for bit, whatever is killed on the way, however
many learners it has, and whether it is profiled or not."""

import json
import signal
import tomllib
from itertools import pairwise

import psutil
import pytest

from gfn_ray.config.sections import LORA_TARGETS
from testing.job_runner import (
    LIMIT,
    await_update,
    mlflow_run,
    run,
    run_make,
    start,
    summary,
    tiny_number_flags,
)
from testing.processes import actor_processes

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

STEPS = 28
EVERY = 4  # updates between two checkpoints, and two deaths
ACTORS = ("SamplerActor", "RewardActor", "LearnerActor", "ReplayActor")

# What depends on the clock, or counts what happened to the processes.
UNSTABLE = ("time", "seconds", "tokens_per_s")


def flags(model, home):
    settings = {
        "steps": STEPS,
        "learner.lr": "1e-2",
        "learner.threads": 1,  # the same for one learner and for two
        "max-staleness": 0,
        "eval.every": 0,
        "checkpoint.every": EVERY,
        "replay.max-times-sampled": 1,  # every update needs every actor
        "replay.samples-per-insert": 1,
        # What else a successor has to take up: log Z and its optimizer's state, what replay was
        # seeded with, other layers.
        "task.support": "full",
        "objective.kind": "tb",
        "objective.root-flow": "learned",
        "replay.seed-demonstrations": "true",
        "policy.lora-targets": "all-linear",
    }
    return tiny_number_flags(
        model, home, **{k.replace("-", "_").replace(".", "__"): v for k, v in settings.items()}
    )


def metrics(home):
    """Every number of every phase that a run's clock and its processes have no part in."""
    found = []
    for line in (home / "run" / "metrics.jsonl").open():
        row = json.loads(line)
        if row["phase"] not in ("engine check", "memory"):
            found.append({k: v for k, v in row.items() if not k.endswith(UNSTABLE)})
    return found


def adapter(home):
    return (home / "run" / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tiny_dir, tmp_path_factory):
    """Nothing is killed, but it is profiled, by `make profile`: all of it, not a minute."""
    home = tmp_path_factory.mktemp("undisturbed")
    arguments = [*flags(tiny_dir, home), "--profile.seconds", str(LIMIT)]
    code, _, err = run_make("profile", arguments, home, "JOB=jobs/random_number.py")
    assert code == 0, err
    assert summary(home)["restarts"] == 0
    return home


def test_the_whole_vocabulary_a_learned_log_z_and_seeded_integers_go_together(undisturbed):
    written = tomllib.loads((undisturbed / "run" / "config.toml").read_text())
    assert written["policy"]["lora_targets"] == list(LORA_TARGETS), (
        "by name, as the engine has them"
    )
    assert "seeding replay with 10 demonstrations" in (undisturbed / "out").read_text()
    assert summary(undisturbed)["after"]["tv"] <= 1


def traced(home):
    """Every call's work, and every wait, by the actor's name: (what, category, begin, end)."""
    events = json.loads((home / "run" / "profile.json").read_text())["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    found = {name: [] for name in names.values()}
    for event in events:
        if event["ph"] == "X":
            span = (event["name"], event["cat"], event["ts"], event["ts"] + event["dur"])
            found[names[event["pid"]]].append(span)
    return found


def test_the_trace_has_the_work_of_every_actor_and_no_actor_works_on_two_calls(undisturbed):
    found = traced(undisturbed)
    assert list(found) == ["controller", "sampler 0", "reward actor 0", "replay", "the learner"]
    for spans in found.values():
        work = [span for span in spans if span[1] == "work"]
        assert work
        assert all(one[3] <= other[2] for one, other in pairwise(work))
        assert all(span[2] >= 0 for span in spans)
    for actor in ("sampler 0", "reward actor 0", "replay", "the learner"):
        assert any(category == "wait" for _, category, _, _ in found[actor])


def test_the_trace_shows_a_batch_drawn_between_one_update_and_the_next(undisturbed):
    """Two processes wrote these times down: their clocks agree."""
    found = traced(undisturbed)
    drawn = [s for s in found["replay"] if s[:2] == ("give a batch", "work")]
    learned = [s for s in found["the learner"] if s[:2] == ("apply an update", "work")]
    assert len(learned) == STEPS, "the trace begins with training"
    for before, after in pairwise(learned):
        assert any(before[3] <= batch[2] and batch[3] <= after[2] for batch in drawn)


def test_the_table_is_printed_and_mlflow_has_the_trace(undisturbed):
    from mlflow import MlflowClient

    out = (undisturbed / "out").read_text()
    assert "s of training went" in out
    for line in ("sampler 0 ", "  apply an update ", "  give a batch ", "controller "):
        assert any(row.startswith(line) for row in out.splitlines())
    client = MlflowClient(f"sqlite:///{undisturbed / 'mlflow.db'}")
    artifacts = {one.path for one in client.list_artifacts(mlflow_run(undisturbed).info.run_id)}
    assert "profile.json" in artifacts


@pytest.fixture(scope="module")
def killed(tiny_dir, tmp_path_factory):
    """Sampler, reward actor, learner and replay were killed in turn in the middle of training, and
    then the job itself with all that it started. It has two learners, of which either dies."""
    home = tmp_path_factory.mktemp("killed")
    process = start([*flags(tiny_dir, home), "--learners", "2"], home, "random_number")
    try:
        for number, actor in enumerate(ACTORS):
            await_update(process, home, 3 + EVERY * number)
            actor_processes(process.pid, actor)[-1].kill()
        await_update(process, home, STEPS - 2 * EVERY)
        process.send_signal(signal.SIGSTOP)  # it must not end while its processes are listed
        family = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.wait(LIMIT)
    for orphan in family:
        if orphan.is_running():
            orphan.kill()
    return home


def test_each_actor_that_is_killed_is_replaced(killed):
    assert not (killed / "run" / "summary.json").exists(), "it was killed on the way"
    restarts = [json.loads(line) for line in (killed / "run" / "restarts.jsonl").open()]
    assert [row["runtime/restarts"] for row in restarts] == [1, 2, 3, 4]
    assert [row["actor"] for row in restarts] == [
        "sampler 0",
        "reward actor 0",
        "the learner",
        "replay",
    ]
    assert all("died while trying to" in row["cause"] for row in restarts)


def test_what_dies_on_the_way_changes_nothing(undisturbed, killed):
    """Another process goes on."""
    begun = mlflow_run(killed).info.run_id
    code, out, err = run(["--resume", str(killed / "run")], killed, "random_number")
    assert code == 0, err
    assert "resuming after update" in out
    assert metrics(killed) == metrics(undisturbed)
    assert adapter(killed) == adapter(undisturbed)
    assert mlflow_run(killed).data.metrics["runtime/restarts"] == 4
    assert mlflow_run(killed).info.run_id == begun
    assert mlflow_run(killed).info.status == "FINISHED"
