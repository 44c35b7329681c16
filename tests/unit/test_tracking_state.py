"""The account of what MLflow has of a run: a file that is whole, or says what is wrong with it."""

from pathlib import Path

import pytest

from gfn_ray.errors import UserError
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.tracking import TrackingState
from testing.full_disk import no_room_beyond


def account() -> TrackingState:
    return TrackingState(
        run_id="a1",
        numbers={"metrics.jsonl": 7},
        tables={"samples.jsonl": 3},
        artifacts=["adapter"],
    )


def read(directory: Path) -> TrackingState:
    found = TrackingState.read(directory)
    assert found is not None
    return found


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    account().save(tmp_path)
    assert read(tmp_path).model_dump() == account().model_dump()
    assert [path.name for path in tmp_path.iterdir()] == ["tracking.json"]


def test_a_run_that_ended_before_it_was_in_mlflow_has_none(tmp_path: Path) -> None:
    assert TrackingState.read(tmp_path) is None


def test_a_change_that_the_disk_does_not_take_is_known_to_this_process_only(tmp_path: Path) -> None:
    state = account()
    state.save(tmp_path)
    with no_room_beyond(10), state.changing(tmp_path):
        state.numbers["metrics.jsonl"] = 9
    assert state.numbers == {"metrics.jsonl": 9}
    assert read(tmp_path).numbers == {"metrics.jsonl": 7}
    with state.changing(tmp_path):
        state.artifacts.clear()
    assert read(tmp_path).model_dump() == state.model_dump()


def test_the_first_account_of_a_run_has_to_be_on_the_disk(tmp_path: Path) -> None:
    with no_room_beyond(10), pytest.raises(OSError):
        account().begin(tmp_path)


def test_lines_that_a_resumed_run_writes_anew_are_not_taken_for_delivered(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.append_samples([{"z": "a"}])
    state = TrackingState(
        run_id="a1",
        numbers={"metrics.jsonl": 70, "restarts.jsonl": 0},
        tables={"samples.jsonl": 500},
        complete=True,
    )
    state.begin(tmp_path)
    again = read(tmp_path)
    assert again.numbers == {"metrics.jsonl": 0, "restarts.jsonl": 0}
    assert again.tables == {"samples.jsonl": run.samples_file.stat().st_size}
    assert not again.complete


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "Invalid JSON"),
        ("[]", "should be an object"),
        ('{"run_id": 3}', "should be a valid string"),
        ('{"numbers": {}}', "Field required"),
        ('{"run_id": "a", "numbers": {"metrics.jsonl": -1}}', "greater than or equal to 0"),
        ("[" * 100_000, "Invalid JSON"),
    ],
)
def test_a_damaged_account_is_refused(content: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "tracking.json").write_text(content)
    with pytest.raises(UserError, match=r"tracking.json is damaged .*; remove it to cont") as told:
        TrackingState.read(tmp_path)
    assert why in str(told.value) and "\n" not in str(told.value)


def test_an_account_that_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tracking.json").mkdir()
    with pytest.raises(UserError, match=r"tracking.json is damaged \(Is a directory\)"):
        TrackingState.read(tmp_path)
