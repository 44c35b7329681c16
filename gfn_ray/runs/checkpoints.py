"""Checkpoints: what a run writes so that it can be resumed, and how it is read back.

    RUN_DIR/start/measured               measurements before training
    RUN_DIR/checkpoints/step-000050/     a usual adapter directory, plus
        training                         state of learner, controller and rounds
        replay                           the buffer, in a synchronous run

A run resumes from the newest undamaged checkpoint. Both directories are published whole, with
checksums. An asynchronous run resumes with the replay that it left, which has every acknowledged
trajectory; a synchronous one with the replay of the checkpoint. The latter then continues bit for
bit as it would have without the interruption, provided that only the seeds decide the order of
events: with one sampler, one reward actor and learner.publish_every 1.
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gfn_ray.config import JobConfig
from gfn_ray.errors import UserError
from gfn_ray.evaluation.records import (
    baseline_from_record,
    baseline_to_record,
    evaluation_from_record,
    evaluation_to_record,
)
from gfn_ray.evaluation.result import Baseline, Evaluation
from gfn_ray.replay.journal.store import empty_store, start_from
from gfn_ray.runs.published import bring_back, complete_checkpoints, publish_directory, set_aside
from gfn_ray.runs.run_dir import RunDir, redacted
from gfn_ray.serving.description import read_description
from gfn_ray.settings_values import dump_toml
from gfn_ray.storage.atomic import COMPLETE, damage
from gfn_ray.storage.serialization import Record, pack, unpack
from gfn_ray.trajectory import Query

FORMAT = 4

TRAINING_FILE = "training"
REPLAY_FILE = "replay"
MEASURED_FILE = "measured"

# Settings that the stored state depends on: another rank has other tensors. Not the model, which
# may have moved to another directory.
_MADE_FOR = ("max_staleness", "seed", "policy", "objective", "learner", "replay", "task")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """Measurements before training."""

    before: Evaluation
    baselines: dict[str, Baseline]


@dataclass(frozen=True)
class Resumption:
    """Where a run resumes. training: a checkpoint's record. replay: a checkpoint's replay file,
    in a synchronous run. damaged: newer checkpoints that are skipped."""

    measured: Measured
    training: Record
    replay: Path
    damaged: list[Path] = field(default_factory=list)

    def hand_over(self) -> Record:
        """Returns the training record and drops it here: weights and moments are large, and this
        object lives until the end of the run."""
        training = dict(self.training)
        self.training.clear()
        return training


def write_training(directory: Path, training: Record, replay: bytes | None) -> None:
    """Adds the state that a run resumes from to a checkpoint's directory."""
    (directory / TRAINING_FILE).write_bytes(pack({"format": FORMAT, **training}))
    if replay is not None:
        (directory / REPLAY_FILE).write_bytes(replay)


def write_measured(run: RunDir, measured: Measured) -> None:
    record = {
        "format": FORMAT,
        "before": evaluation_to_record(measured.before),
        "baselines": {
            str(i): baseline_to_record(b) for i, b in enumerate(measured.baselines.values())
        },
        "names": list(measured.baselines),
    }
    with publish_directory(run.start_dir) as directory:
        (directory / MEASURED_FILE).write_bytes(pack(record))


def find_resumption(
    run: RunDir, task_name: str, config: JobConfig, queries: list[Query]
) -> Resumption | None:
    """Finds the newest undamaged checkpoint of a run; None if it has made none. Changes nothing.
    queries: the held-out ones.

    Raises UserError if updates were made but every checkpoint is damaged, or if the checkpoint
    belongs to another task, other settings or another version of gfn_ray.
    """
    checkpoint, damaged = _newest_whole(run)
    if checkpoint is None:
        return None
    _check_origin(checkpoint, task_name, config)
    start_over = "restore it from a copy, or start a new run"
    if not (run.start_dir / COMPLETE).is_file():
        raise UserError(f"{run.start_dir} is missing or torn; {start_over}")
    if found := damage(run.start_dir):
        raise UserError(f"{found}; {start_over}")
    training = _read(checkpoint / TRAINING_FILE, f"remove {checkpoint} to resume from an older one")
    start = _read(run.start_dir / MEASURED_FILE, start_over)
    by_id = {query.query_id: query for query in queries}
    try:
        measured = Measured(
            evaluation_from_record(start["before"], by_id),
            {
                name: baseline_from_record(start["baselines"][str(i)], by_id)
                for i, name in enumerate(start["names"])
            },
        )
    except KeyError as error:
        raise UserError(
            f"{run.start_dir} refers to {error}, which is no longer in the task's data; "
            "restore the data of this run, or start a new run"
        ) from None
    return Resumption(measured, training, checkpoint / REPLAY_FILE, damaged)


def restore_replay(run: RunDir, resumption: Resumption | None) -> None:
    """Restores a run's directory to that checkpoint; None: to the beginning.

    Removes the summary, because a run that is trained further is unfinished until it has a new one.
    """
    run.summary_file.unlink(missing_ok=True)
    if resumption is None:
        run.cut_back({})
        empty_store(run.replay_dir)
        return
    for checkpoint in resumption.damaged:
        set_aside(checkpoint)  # else pruning would count it
    if resumption.replay.exists():
        start_from(run.replay_dir, resumption.replay.read_bytes())
    run.cut_back(resumption.training["files"])
    bring_back(run.checkpoint_dir(resumption.training["controller"]["step"]))


def _newest_whole(run: RunDir) -> tuple[Path | None, list[Path]]:
    """Returns the newest undamaged checkpoint, and the damaged ones that are newer."""
    damaged: dict[Path, str] = {}
    for checkpoint in complete_checkpoints(run.checkpoints_dir):
        found = damage(checkpoint)
        if found is None:
            for other, why in damaged.items():
                _log.warning(
                    "checkpoint %s is damaged (%s); resuming from %s", other.name, why, checkpoint
                )
            return checkpoint, list(damaged)
        damaged[checkpoint] = found
    # The first one is written before the first update; older ones go once a newer one is complete.
    first = run.checkpoint_dir(0).name
    lost = [path.name for path in run.checkpoints_dir.glob("step-*") if path.name != first]
    if damaged or lost:
        why = next(iter(damaged.values()), f"{max(lost, default='')} has no file {COMPLETE}")
        raise UserError(
            f"no checkpoint in {run.checkpoints_dir} is intact ({why}); restore one from a copy, "
            "or start a new run"
        )
    if run.tells_of_updates():
        raise UserError(
            f"{run.metrics_file} records updates, but {run.checkpoints_dir} has no intact "
            "checkpoint; restore one from a copy, or start a new run"
        )
    return None, []


def _check_origin(checkpoint: Path, task_name: str, config: JobConfig) -> None:
    """Raises UserError if a checkpoint is of another task or of other settings."""
    written = read_description(checkpoint)
    if written.task != task_name:
        raise UserError(
            f"{checkpoint} was written by a run of task {written.task!r}, but this job's task is "
            f"{task_name!r}; resume it with the job of that task"
        )
    before, now = written.settings, tomllib.loads(dump_toml(redacted(config)))
    for name in _MADE_FOR:
        if changed := _difference(name, before.get(name), now.get(name)):
            setting, old, new = changed
            raise UserError(
                f"{setting} is {new!r}, but was {old!r} when {checkpoint} was written; restore it "
                "in the run's config.toml, or start a new run"
            )


def _difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any] | None:
    """Returns the first setting below `name` that differs, with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        below = (_difference(f"{name}.{key}", old.get(key), new.get(key)) for key in {**old, **new})
        return next((found for found in below if found), None)
    return None if old == new else (name, old, new)


def _read(file: Path, remedy: str) -> Record:
    try:
        record = unpack(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); {remedy}") from None
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); {remedy}") from None
    if record.get("format") != FORMAT:
        raise UserError(
            f"{file} has format {record.get('format')}, but this gfn_ray reads {FORMAT}; resume "
            "with the version of gfn_ray that wrote it"
        )
    return record
