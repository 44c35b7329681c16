"""What MLflow has of a run's lines, after any order of events and with any bytes in them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.runs.run_dir import RunDir
from gfn_ray.tracking import TrackingState
from gfn_ray.tracking.deliveries import Deliveries
from gfn_ray.tracking.store import MlflowRun
from testing.examples import examples

GOOD = b'{"time": 17.5, "step": 2, "phase": "train", "loss": 1.5, "size": null}\n'


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def flipped(place_and_bits: tuple[int, int]) -> bytes:
    place, bits = place_and_bits
    return GOOD[:place] + bytes([GOOD[place] ^ bits]) + GOOD[place + 1 :]


@examples(60)
@given(
    st.lists(
        st.just(GOOD)
        | st.binary(max_size=60)
        | st.integers(0, len(GOOD)).map(lambda end: GOOD[:end])
        | st.tuples(st.integers(0, len(GOOD) - 1), st.integers(1, 255)).map(flipped),
        max_size=6,
    )
)
def test_lines_of_any_bytes_hold_up_nothing_that_comes_after_them(
    migrated: Path, tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]
) -> None:
    mlflow = client(f"sqlite:///{migrated}")
    run = RunDir(tmp_path_factory.mktemp("run"))
    run.metrics_file.write_bytes(b"".join([*parts, b"\n", GOOD.replace(b"loss", b"last")]))
    state = TrackingState(run_id=mlflow.create_run("0").info.run_id)
    list(Deliveries(MlflowRun(mlflow, state.run_id), run.path, state).numbers())
    assert state.numbers == {"metrics.jsonl": run.metrics_file.stat().st_size}
    found = mlflow.get_run(state.run_id).data.metrics
    assert found["last"] == 1.5 and all(map(math.isfinite, found.values()))


@examples(100)
@given(st.lists(st.sampled_from(["write", "deliver", "die", "resume"]), min_size=5, max_size=15))
def test_whatever_dies_mlflow_has_every_line_of_the_file_and_each_once(
    migrated: Path, tmp_path_factory: pytest.TempPathFactory, events: list[str]
) -> None:
    """die: after a delivery, of which there is no account yet. resume: from a checkpoint, behind
    which lines are cut off, and others are written in their place."""
    mlflow = client(f"sqlite:///{migrated}")
    run = RunDir(tmp_path_factory.mktemp("run"))
    state = TrackingState(run_id=mlflow.create_run("0").info.run_id)
    ends = [0]  # of the lines in the file
    for step, event in enumerate([*events, "deliver"]):
        if event == "write":
            run.append_metrics(step, "train", {"loss": step})
            ends.append(run.metrics_file.stat().st_size)
        elif event == "resume":
            ends = ends[: (len(ends) + 1) // 2]
            run.cut_back({"metrics.jsonl": ends[-1]})
            state.begin(run.path)
        else:
            account = state.model_dump()
            list(Deliveries(MlflowRun(mlflow, state.run_id), run.path, state).numbers())
            if event == "die":
                state = TrackingState(**account)
    found = [one.step for one in mlflow.get_metric_history(state.run_id, "loss")]
    assert len(found) == len(set(found))
    written = (
        [json.loads(line) for line in run.metrics_file.open()] if run.metrics_file.exists() else []
    )
    assert {row["step"] for row in written} <= set(found)
