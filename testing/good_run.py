"""A run's directory as an interrupted run leaves it, by the project's own writers, without Ray."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from gfn_ray.config import PolicyConfig
from gfn_ray.evaluation.posterior import QueryDiagnostics
from gfn_ray.evaluation.result import Baseline, Evaluation, QuerySamples
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.models.loading import load_tokenizer, vocab_size
from gfn_ray.policy.adapter import Adapter, add_adapter, read_adapter, write_adapter
from gfn_ray.replay.journal.store import ReplayStore
from gfn_ray.runs.checkpoints import Measured, write_measured, write_training
from gfn_ray.runs.published import publish_directory
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.serving.description import write_description
from gfn_ray.settings_values import dump_toml
from gfn_ray.storage.atomic import COMPLETE, checksums
from gfn_ray.storage.trajectories import pack_trajectories
from gfn_ray.tasks.random_number.config import RandomNumberJob
from gfn_ray.tasks.random_number.task import RandomNumberTask
from gfn_ray.tasks.task import TaskData
from gfn_ray.tracking import TrackingState
from gfn_ray.trajectory import Trajectory
from testing.makers import make_trajectory
from testing.policies import load

TASK = "random_number"
STEPS = (2, 4)  # of its checkpoints
DIAGNOSTICS = QueryDiagnostics(8, 1.0, 1.5, -2.0, -1.0, 1.0, 4.0, 0.5)


def settings(model: Path, home: Path) -> RandomNumberJob:
    job = RandomNumberJob(steps=6, max_staleness=0, run_dir=home / "run")
    return job.model_copy(
        update={
            "model": job.model.model_copy(update={"name": str(model)}),
            "policy": PolicyConfig(lora_rank=8),
            "tracking": job.tracking.model_copy(update={"uri": f"sqlite:///{home / 'mlflow.db'}"}),
        }
    )


def data_of(config: RandomNumberJob) -> TaskData:
    name = config.model.name
    return RandomNumberTask(config).load(load_tokenizer(name, False), vocab_size(name, False))


def trajectories(data: TaskData) -> list[Trajectory]:
    query = data.held_out[0]
    texts = data.enumerations[0].outcomes[:5]
    made = [make_trajectory(data.support, query.query_id, z) for z in texts]
    return [one.scored(np.where(one.terminable, -1.5, np.nan)) for one in made]


def write_run(model: Path, home: Path) -> RunDir:
    """home/run: two checkpoints, an adapter, three evaluated queries; no summary yet."""
    config = settings(model, home)
    data = data_of(config)
    run = RunDir.create(config, TASK)
    run.write_config(dump_toml(config))
    TrackingState(run_id="0123456789abcdef", complete=True).save(run.path)
    policy = add_adapter(load(model), config.policy, config.seed)
    trainer = PolicyTrainer(policy, config, data.support)
    store = ReplayStore(run.replay_dir, config.replay, config.seed)
    _write_measured(run, data)
    for step in STEPS:
        store.add(pack_trajectories(trajectories(data)))
        run.append_metrics(step, "train", {"train/loss": 1.0})
        training = {
            "learner": {"policy": trainer.state()},
            "controller": {"step": step},
            "schedule": None,
            "run": {"ended_by": "steps"},
            "files": run.file_sizes(),
        }
        adapter = read_adapter(policy, step)
        with publish_directory(run.checkpoint_dir(step)) as directory:
            _fill(run, adapter, directory)
            write_training(directory, training, store.snapshot())
    with publish_directory(run.adapter_dir) as directory:
        _fill(run, adapter, directory)
    store.close()
    return run


def copy_run(home: Path, target: Path) -> Path:
    """A home to spoil, with nobody's lock in it."""
    return Path(shutil.copytree(home, target))


def mark_again(directory: Path) -> None:
    """Makes a spoiled directory one that was written so."""
    (directory / COMPLETE).write_text(checksums(directory))


def _write_measured(run: RunDir, data: TaskData) -> None:
    query, scored = data.held_out[0], trajectories(data)
    texts = [str(number) for number in range(len(scored))]
    samples = QuerySamples(query, scored, texts, np.full(len(scored), -2.0), DIAGNOSTICS)
    before = Evaluation({"elbo": -2.0}, [samples], [], 0.0)
    write_measured(run, Measured(before, {"greedy": Baseline({"elbo": -3.0}, [])}))
    for phase in ("before", "after"):
        rows = [{"step": 0, "phase": phase, "query_id": f"q{n}", "elbo": -1.0} for n in range(3)]
        run.append_diagnostics(rows)
        run.append_queries(rows)


def _fill(run: RunDir, adapter: Adapter, directory: Path) -> None:
    write_adapter(adapter, directory)
    write_description(directory, TASK, run.config_file.read_text())
