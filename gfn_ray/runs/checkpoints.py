"""What a run leaves behind so that it can go on, and the reading of it.

    RUN_DIR/start/measured               what was measured before training
    RUN_DIR/checkpoints/step-000050/     an adapter as any other, and beside it
        training                         learner, controller, rounds: all that is no weight of q
        replay                           the buffer, of a synchronous run

Owns these files and which checkpoint counts: the newest that is as it was written. Both directories
are published whole, with checksums. An asynchronous run goes on with the replay that it
left, which has every acknowledged trajectory; a synchronous one with the replay of the
checkpoint, so that what follows is what would have followed, bit for bit, where nothing but the
seeds decides the order of events: with one sampler, one reward actor and learner.publish_every 1.
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gfn_ray.cli import dump_toml
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
from gfn_ray.storage.atomic import COMPLETE, damage
from gfn_ray.storage.serialization import Record, pack, unpack
from gfn_ray.trajectory import Query

FORMAT = 3

TRAINING_FILE = "training"
REPLAY_FILE = "replay"
MEASURED_FILE = "measured"

# Settings that the stored state is made for: another rank has other tensors. The model may have
# moved to another directory.
_MADE_FOR = ("max_staleness", "seed", "policy", "objective", "learner", "replay", "task")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """What a run knows before it trains."""

    before: Evaluation
    baselines: dict[str, Baseline]


@dataclass(frozen=True)
class Resumption:
    """Where a run goes on. training: the record of a checkpoint. replay: the file beside it, of a
    synchronous run. damaged: newer checkpoints, which are not gone on from."""

    measured: Measured
    training: Record
    replay: Path
    damaged: list[Path] = field(default_factory=list)

    def hand_over(self) -> Record:
        """The record of training, which is not kept here: weights and moments are large, and
        whoever opened the run holds on to this object until its end."""
        training = dict(self.training)
        self.training.clear()
        return training


def write_training(directory: Path, training: Record, replay: bytes | None) -> None:
    """Adds to a checkpoint's directory what a run needs to go on from it."""
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
    """Where a run can go on: at its newest checkpoint that is whole; None where it has made none.
    Changes nothing. queries: the held-out ones.

    Raises UserError where no checkpoint is whole any more, though updates were made, or where they
    are of another task, of other settings or of a newer gfn_ray.
    """
    checkpoint, damaged = _newest_whole(run)
    if checkpoint is None:
        return None
    _check_origin(checkpoint, task_name, config)
    start_over = "bring it back from a copy, or start a new run"
    if not (run.start_dir / COMPLETE).is_file():
        raise UserError(f"{run.start_dir} is missing or torn; {start_over}")
    if found := damage(run.start_dir):
        raise UserError(f"{found}; {start_over}")
    training = _read(checkpoint / TRAINING_FILE, f"remove {checkpoint} to go on from an older one")
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
            f"{run.start_dir} speaks of {error}, which the task's data does not have any more; "
            "bring the data of this run back, or start a new run"
        ) from None
    return Resumption(measured, training, checkpoint / REPLAY_FILE, damaged)


def restore_replay(run: RunDir, resumption: Resumption | None) -> None:
    """A run's directory as it was at that checkpoint; None: as it was at the beginning.

    A summary goes: a run that is trained further is finished again only once it has a new one.
    """
    run.summary_file.unlink(missing_ok=True)
    if resumption is None:
        run.cut_back({})
        empty_store(run.replay_dir)
        return
    for checkpoint in resumption.damaged:
        set_aside(checkpoint)  # a published one counts when the old ones are removed
    if resumption.replay.exists():
        start_from(run.replay_dir, resumption.replay.read_bytes())
    run.cut_back(resumption.training["files"])
    bring_back(run.checkpoint_dir(resumption.training["controller"]["step"]))


def _newest_whole(run: RunDir) -> tuple[Path | None, list[Path]]:
    """The checkpoint that counts, and the damaged ones that are newer."""
    damaged: dict[Path, str] = {}
    for checkpoint in complete_checkpoints(run.checkpoints_dir):
        found = damage(checkpoint)
        if found is None:
            for other, why in damaged.items():
                _log.warning(
                    "checkpoint %s is damaged (%s); going on from %s", other.name, why, checkpoint
                )
            return checkpoint, list(damaged)
        damaged[checkpoint] = found
    # The first one is written before the first update, and older ones go once a newer is whole.
    first = run.checkpoint_dir(0).name
    lost = [path.name for path in run.checkpoints_dir.glob("step-*") if path.name != first]
    if damaged or lost:
        why = next(iter(damaged.values()), f"{max(lost, default='')} has no file {COMPLETE}")
        raise UserError(
            f"no checkpoint in {run.checkpoints_dir} is whole ({why}); bring one back from a copy, "
            "or start a new run"
        )
    if run.tells_of_updates():
        raise UserError(
            f"{run.metrics_file} tells of updates, and {run.checkpoints_dir} has no checkpoint "
            "that is whole; bring one back from a copy, or start a new run"
        )
    return None, []


def _check_origin(checkpoint: Path, task_name: str, config: JobConfig) -> None:
    """Whether the run went by the same task and the same settings when it wrote this."""
    written = read_description(checkpoint)
    if written.task != task_name:
        raise UserError(
            f"{checkpoint} was written by a run of task {written.task!r}, and this is the job of "
            f"{task_name!r}; go on with the job of that one"
        )
    before, now = written.settings, tomllib.loads(dump_toml(redacted(config)))
    for name in _MADE_FOR:
        if changed := _difference(name, before.get(name), now.get(name)):
            setting, old, new = changed
            raise UserError(
                f"{setting} is {new!r}, and was {old!r} when {checkpoint} was written; set it back "
                "in the run's config.toml, or start a new run"
            )


def _difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any] | None:
    """The first setting below `name` that differs, with both values."""
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
            f"{file} has format {record.get('format')}, and this gfn_ray reads {FORMAT}; go on "
            "with the gfn_ray that wrote it"
        )
    return record
