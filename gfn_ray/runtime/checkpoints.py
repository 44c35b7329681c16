"""What a run leaves behind so that it can go on, and the reading of it.

    RUN_DIR/start                        what was measured before training
    RUN_DIR/checkpoints/step-000050/     an adapter as any other, and beside it
        training                         learner, controller, rounds: all that is no weight of q
        replay                           the buffer, of a synchronous run

Owns these files and which checkpoint counts. An asynchronous run goes on with the replay that it
left, which has every acknowledged trajectory; a synchronous one with the replay of the
checkpoint, so that what follows is what would have followed, bit for bit.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from gfn_ray.durable import atomic_file
from gfn_ray.errors import UserError
from gfn_ray.evaluation.records import (
    baseline_from_record,
    baseline_to_record,
    evaluation_from_record,
    evaluation_to_record,
)
from gfn_ray.evaluation.result import Baseline, Evaluation
from gfn_ray.packed import Record, pack, unpack
from gfn_ray.replay.store import start_from
from gfn_ray.runtime.run_dir import RunDir, newest_complete
from gfn_ray.trajectory import Query

FORMAT = 1

TRAINING_FILE = "training"
REPLAY_FILE = "replay"


@dataclass(frozen=True)
class Measured:
    """What a run knows before it trains."""

    before: Evaluation
    baselines: dict[str, Baseline]


@dataclass(frozen=True)
class Resumption:
    """Where a run goes on. training: the record of a checkpoint. replay: the file beside it, of a
    synchronous run."""

    measured: Measured
    training: Record
    replay: Path


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
    with atomic_file(run.start_file) as temp:
        temp.write_bytes(pack(record))


def find_resumption(run: RunDir, queries: list[Query]) -> Resumption | None:
    """Where a run can go on: at its newest checkpoint; None where it has none. Changes nothing.
    queries: the held-out ones.

    Raises UserError where a file is damaged, or was written by a newer gfn_ray.
    """
    checkpoint = newest_complete(run.checkpoints_dir)
    if checkpoint is None or not run.start_file.exists():
        return None
    training = _read(checkpoint / TRAINING_FILE, f"remove {checkpoint} to go on from an older one")
    start = _read(run.start_file, f"remove {run.start_file} to start over")
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
            f"{run.start_file} speaks of {error}, which the task's data does not have any more; "
            "bring the data of this run back, or start a new run"
        ) from None
    return Resumption(measured, training, checkpoint / REPLAY_FILE)


def put_back(run: RunDir, resumption: Resumption | None) -> None:
    """A run's directory as it was at that checkpoint; None: as it was at the beginning."""
    if resumption is None:
        run.cut_back({})
        shutil.rmtree(run.replay_dir, ignore_errors=True)
        return
    if resumption.replay.exists():
        start_from(run.replay_dir, resumption.replay.read_bytes())
    run.cut_back(resumption.training["files"])


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
