"""A run survives one batch with numbers that are not finite; too many end it."""

import json
import sys

import pytest

from testing.job_runner import (
    LIMIT,
    ROOT,
    mlflow_run,
    run,
    start,
    summary,
    tiny_flags,
    tiny_number_flags,
)

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

# The example of docs/own-task.md with a verifier that fails on two of its training topics: NaN,
# and weights that are finite while the square of their difference, the loss, is not.
STEPS = 16  # replay holds every topic by then
EXAMPLE = ROOT / "docs" / "examples" / "haiku.py"
WEIGHT = "-self._config.task.strictness * syllables_off(text)"
FAULTY = f'{{"rain": float("nan"), "wind": 1e25 * len(text)}}.get(query.query_id, {WEIGHT})'


def dumps(home):
    return [
        json.loads(file.read_text()) for file in sorted((home / "run/nonfinite_batches").iterdir())
    ]


def rows(home, phase):
    lines = (home / "run" / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["phase"] == phase]


def test_non_finite_batches_are_skipped_and_the_run_continues(tiny_dir, tmp_path):
    faulty = tmp_path / "faulty.py"
    assert WEIGHT in EXAMPLE.read_text()
    faulty.write_text(EXAMPLE.read_text().replace(WEIGHT, FAULTY))
    flags = tiny_flags(
        tiny_dir,
        tmp_path,
        steps=STEPS,
        checkpoint__every=STEPS,
        replay__priority="uniform",
        max_staleness=0,
        runtime__max_nonfinite_batches=8,
    )
    process = start(flags, tmp_path, command=(sys.executable, str(faulty)))
    try:
        code = process.wait(LIMIT)
    finally:
        process.kill()
    err = (tmp_path / "err").read_text()
    assert code == 0, err

    found = dumps(tmp_path)
    groups = [one for one in found if one["dropped"] == "group"]
    updates = [one for one in found if one["dropped"] == "update"]
    assert groups and updates and len(found) == len(groups) + len(updates)
    for one in groups:
        assert one["reason"] == "log R is nan"
        assert {t["query_id"] for t in one["trajectories"]} == {"rain"}
        assert all(t["log_reward"][-1] == "nan" and t["text"] for t in one["trajectories"])
    for one in updates:
        assert one["reason"] == "the loss is inf" or one["reason"] == "the loss is nan"
        assert "wind" in {t["query_id"] for t in one["trajectories"]}
        assert all(isinstance(t["log_q"], float) for t in one["trajectories"])

    total = summary(tmp_path)["nonfinite_batches"]
    assert len(found) == min(total, 20)  # the newest
    assert [row["runtime/nonfinite_batches"] for row in rows(tmp_path, "non-finite batch")] == list(
        range(1, total + 1)
    )
    assert [row["step"] for row in rows(tmp_path, "train")] == list(range(1, STEPS + 1))
    assert all(row["train/loss"] is not None for row in rows(tmp_path, "train"))
    assert mlflow_run(tmp_path).data.metrics["runtime/nonfinite_batches"] == total
    assert (
        "log R is nan: the group was dropped, see nonfinite_batches/"
        in (tmp_path / "out").read_text()
    )


def test_a_run_whose_every_update_is_bad_ends_with_a_diagnosis(tiny_dir, tmp_path):
    """The first update is fine, and takes the weights so far that nothing after it is."""
    flags = tiny_number_flags(
        tiny_dir,
        tmp_path,
        learner__lr="1e30",
        learner__warmup_steps=0,
        runtime__max_nonfinite_batches=3,
    )
    code, _, err = run(flags, tmp_path, "random_number")
    assert code == 3, err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if "in a row were dropped" in line]
    assert (
        "3 updates in a row were dropped, as many as runtime.max_nonfinite_batches allows" in line
    )
    assert "the loss is nan (3 x)" in line
    assert f"{tmp_path / 'run' / 'nonfinite_batches' / '000003.json'}" in line
    assert "lower learner.lr (1e+30)" in line and "reward.temperature_end" in line
    assert [one["reason"] for one in dumps(tmp_path)] == ["the loss is nan"] * 3
    assert mlflow_run(tmp_path).info.status == "FAILED"
    assert mlflow_run(tmp_path).data.metrics["runtime/nonfinite_batches"] == 3
