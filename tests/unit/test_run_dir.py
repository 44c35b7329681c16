"""Where outputs go, and that nothing half-written is taken for finished."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gfn_ray.config import JobConfig
from gfn_ray.errors import UserError
from gfn_ray.paths import output_root
from gfn_ray.runs.published import newest_complete, prune, publish_directory
from gfn_ray.runs.run_dir import RunDir, resolve_tracking_uri
from gfn_ray.storage.atomic import COMPLETE, damage


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in an empty directory, with no GFN_RAY_HOME."""
    monkeypatch.delenv("GFN_RAY_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def records(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def publish(checkpoint: Path, content: str = "weights") -> Path:
    with publish_directory(checkpoint) as temp:
        (temp / "state").mkdir()
        (temp / "state" / "tensors").write_text(content)
    return checkpoint


# Where


def test_outputs_go_to_the_current_directory(root: Path) -> None:
    assert output_root() == root


def test_an_environment_variable_moves_them(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GFN_RAY_HOME", str(root / "elsewhere"))
    assert output_root() == root / "elsewhere"
    assert RunDir.create(JobConfig(), "infill").path.parent == root / "elsewhere" / "runs"


def test_a_submitted_jobs_copy_of_the_code_is_no_place_for_outputs(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = root / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("HOME", str(root / "home"))
    assert output_root() == root / "home" / "gfn_ray"


@pytest.mark.parametrize(
    ("uri", "resolved"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{root}/mlflow.db"),
        ("sqlite:///sub/m.db?timeout=5", "sqlite:///{root}/sub/m.db?timeout=5"),
        ("sqlite:////abs/mlflow.db", "sqlite:////abs/mlflow.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("postgresql://u:p@h/db", "postgresql://u:p@h/db"),
    ],
)
def test_only_relative_sqlite_files_are_resolved(uri: str, resolved: str, root: Path) -> None:
    assert resolve_tracking_uri(uri) == resolved.format(root=root)


def test_the_default_directory_is_named_by_task_and_time_and_linked(root: Path) -> None:
    run = RunDir.create(JobConfig(), "infill")
    run.link_latest("infill")
    assert run.path.parent == root / "runs"
    assert run.path.name.startswith("infill-2")
    latest = root / "runs" / "infill-latest"
    assert latest.readlink() == Path(run.path.name)
    assert latest.resolve() == run.path.resolve()


def test_runs_in_the_same_second_get_directories_of_their_own(root: Path) -> None:
    runs = [RunDir.create(JobConfig(), "infill") for _ in range(5)]
    for run in runs:
        run.link_latest("infill")
    names = [run.path.name for run in runs]
    assert len(set(names)) == 5
    assert all(re.fullmatch(r"infill-\d{8}-\d{6}(-[2-5])?", name) for name in names)
    assert (root / "runs" / "infill-latest").readlink() == Path(names[-1])


@pytest.mark.parametrize("given", ["mine", "runs/mine", "deep/er/mine"])
def test_a_given_directory_is_made_below_the_root(given: str, root: Path) -> None:
    run = RunDir.create(JobConfig(run_dir=Path(given)), "infill")
    run.link_latest("infill")
    assert run.path == root / given
    assert run.checkpoints_dir.is_dir()
    assert (root / "runs" / "infill-latest").exists() == given.startswith("runs/")


@pytest.mark.parametrize("run_dir", [None, Path("runs/infill-latest")])
def test_a_run_that_no_link_can_name_goes_on_without_one(
    run_dir: Path | None, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A copy that followed links has a directory in its place; or the run was given that name."""
    if run_dir is None:
        (root / "runs" / "infill-latest").mkdir(parents=True)
    run = RunDir.create(JobConfig(run_dir=run_dir), "infill")
    run.link_latest("infill")
    assert (root / "runs" / "infill-latest").is_dir()
    assert {path.name for path in (root / "runs").iterdir()} == {"infill-latest", run.path.name}
    assert len(caplog.messages) == (run_dir is None)
    assert all("is not a link to this run (" in message for message in caplog.messages)


def test_a_run_is_found_again_by_the_name_it_was_given(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the process is: a submitted job's working directory is a copy of the code."""
    monkeypatch.setenv("GFN_RAY_HOME", str(root / "elsewhere"))
    run = RunDir.create(JobConfig(run_dir=Path("runs/mine")), "infill")
    run.write_config("steps = 1\n")
    run._lock.release()
    assert RunDir.reopen(Path("runs/mine")).path == run.path == root / "elsewhere" / "runs" / "mine"


def test_a_given_empty_directory_is_taken(root: Path) -> None:
    (root / "mine").mkdir()
    assert RunDir.create(JobConfig(run_dir=root / "mine"), "infill").path == root / "mine"


def occupied(root: Path) -> Path:
    (root / "mine").mkdir()
    (root / "mine" / "thesis.tex").write_text("years of work")
    return Path("mine")


def a_file(root: Path) -> Path:
    (root / "mine").write_text("not a directory")
    return Path("mine")


def below_a_file(root: Path) -> Path:
    return a_file(root) / "run"


@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        (occupied, "which is not empty; it takes a new or an empty directory"),
        (a_file, "cannot be written (File exists)"),
        (below_a_file, "cannot be written (Not a directory)"),
        (lambda _: Path("/proc/gfn_ray"), "cannot be written (No such file or directory)"),
    ],
)
def test_a_given_directory_that_will_not_do_is_refused(
    place: Any, complaint: str, root: Path
) -> None:
    config = JobConfig(run_dir=place(root))
    with pytest.raises(UserError) as refused:
        RunDir.create(config, "infill")
    assert str(refused.value).startswith("--run-dir got ")
    assert complaint in str(refused.value)


def test_an_unwritable_default_names_the_setting_that_helps(root: Path) -> None:
    (root / "runs").write_text("in the way")
    with pytest.raises(UserError, match=r"the default run directory is .*--run-dir"):
        RunDir.create(JobConfig(), "infill")


# What


def test_metrics_are_one_json_object_a_line_with_null_for_what_is_no_number() -> None:
    run = RunDir.create(JobConfig(), "infill")
    before = time.time()
    run.append_metrics(1, "train", {"loss": np.float32(0.5), "reward": math.nan})
    run.append_metrics(2, "after", {"loss": -math.inf, "per_query": np.array([1.0, np.nan])})
    found = records(run.metrics_file)
    times = [row.pop("time") for row in found]
    assert before - 0.001 <= times[0] <= times[1] <= time.time() + 0.001
    assert found == [
        {"step": 1, "phase": "train", "loss": 0.5, "reward": None},
        {"step": 2, "phase": "after", "loss": None, "per_query": [1.0, None]},
    ]


def test_samples_keep_their_characters() -> None:
    run = RunDir.create(JobConfig(), "infill")
    run.append_samples([{"z": "“Hi”\nthere"}, {"z": "日本"}])
    assert records(run.samples_file) == [{"z": "“Hi”\nthere"}, {"z": "日本"}]


def test_the_summary_is_replaced_as_a_whole() -> None:
    run = RunDir.create(JobConfig(), "infill")
    run.write_summary({"steps": 1, "before": {"elbo": math.nan}, "adapter": Path("a/b")})
    run.write_summary({"steps": 2})
    assert json.loads(run.summary_file.read_text()) == {"steps": 2}
    with pytest.raises(TypeError):
        run.write_summary({"steps": object()})
    assert json.loads(run.summary_file.read_text()) == {"steps": 2}


def test_no_temporary_file_is_left() -> None:
    run = RunDir.create(JobConfig(), "infill")
    run.write_config("steps = 1\n")
    run.write_summary({})
    names = sorted(path.name for path in run.path.iterdir())
    assert names == [".lock", "checkpoints", "config.toml", "summary.json"]
    assert run.config_file.read_text() == "steps = 1\n"


# Publication


def test_a_published_directory_is_complete(root: Path) -> None:
    final = publish(root / "adapter")
    assert (final / "state" / "tensors").read_text() == "weights"
    assert (final / COMPLETE).exists()
    assert [path.name for path in root.iterdir()] == ["adapter"]


def test_nothing_appears_before_the_writer_is_done(root: Path) -> None:
    with publish_directory(root / "adapter") as temp:
        (temp / "tensors").write_text("half")
        assert not (root / "adapter").exists()


def test_a_failed_writer_leaves_the_old_one(root: Path) -> None:
    publish(root / "adapter", "old")
    with pytest.raises(OSError), publish_directory(root / "adapter") as temp:
        (temp / "tensors").write_text("half")
        raise OSError("disk full")
    assert (root / "adapter" / "state" / "tensors").read_text() == "old"
    assert [path.name for path in root.iterdir()] == ["adapter"]


def test_a_newer_one_replaces_the_old_one(root: Path) -> None:
    publish(root / "adapter", "old")
    publish(root / "adapter", "new")
    assert (root / "adapter" / "state" / "tensors").read_text() == "new"
    assert [path.name for path in root.iterdir()] == ["adapter"]


def test_what_a_dead_writer_left_does_not_get_into_the_next_one(root: Path) -> None:
    (root / ".adapter.tmp").mkdir()
    (root / ".adapter.tmp" / "torn").write_text("half")
    assert not (publish(root / "adapter") / "torn").exists()


def test_a_full_disk_is_told_of_by_the_name_of_what_found_no_room(root: Path) -> None:
    with pytest.raises(OSError) as full, publish_directory(root / "adapter") as temp:
        (temp / "tensors").symlink_to("/dev/full")
        (temp / "tensors").write_bytes(b"weights")
    assert (full.value.strerror, full.value.filename) == (
        "No space left on device",
        str(root / "adapter"),
    )


def crashes(step: Any, place: Path, copies: Path) -> list[Path]:
    """What is left of `place` by a death before each file operation of this step."""
    left: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("open", "fsync", "rename", "replace", "unlink", "rmdir"):
            original = getattr(os, name)

            def watched(*args: Any, operation: Any = original, **kwargs: Any) -> Any:
                left.append(Path(shutil.copytree(place, copies / str(len(left)))))
                return operation(*args, **kwargs)

            patch.setattr(os, name, watched)
        step()
    return left


def test_a_death_at_any_moment_of_a_replacement_leaves_a_whole_one(root: Path) -> None:
    """And so does a second one, while what the first left is replaced."""
    publish(root / "run" / "step-000050", "0")
    places, seen = [root / "run"], set()
    for written in ("1", "2"):
        following: list[Path] = []
        for place in places:
            copies = root / f"crashes-{written}" / place.name
            replace = partial(publish, place / "step-000050", written)
            left = crashes(replace, place, copies)
            assert [path.name for path in place.iterdir()] == ["step-000050"]
            following += left
        for place in following:
            found = newest_complete(place)
            assert found is not None and damage(found) is None
            seen.add((found.name, (found / "state" / "tensors").read_text()))
        places = following
    assert {("step-000050", "0"), (".step-000050.tmp", "1"), ("step-000050", "2")} <= seen


# Checkpoints


def test_the_newest_checkpoint_is_that_of_the_highest_step() -> None:
    run = RunDir.create(JobConfig(), "infill")
    for step in (900, 1_000_000, 75):
        publish(run.checkpoint_dir(step))
    assert newest_complete(run.checkpoints_dir) == run.checkpoint_dir(1_000_000)


def test_a_torn_checkpoint_is_passed_over_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    run = RunDir.create(JobConfig(), "infill")
    publish(run.checkpoint_dir(25))
    run.checkpoint_dir(50).mkdir()
    with caplog.at_level(logging.WARNING):
        assert newest_complete(run.checkpoints_dir) == run.checkpoint_dir(25)
    assert "step-000050 is torn" in caplog.text


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_without_checkpoints_there_is_no_newest(name: str, root: Path) -> None:
    (root / "empty").mkdir()
    assert newest_complete(root / name) is None


def test_pruning_keeps_the_newest_complete_ones() -> None:
    run = RunDir.create(JobConfig(), "infill")
    for step in (25, 75, 100):
        publish(run.checkpoint_dir(step))
    run.checkpoint_dir(50).mkdir()  # torn
    (run.checkpoints_dir / ".step-000060.tmp").mkdir()  # left by a dead writer
    (run.checkpoints_dir / ".step-000125.tmp").mkdir()  # perhaps being written
    (run.checkpoints_dir / "notes").mkdir()
    prune(run.checkpoints_dir, keep=2)
    left = sorted(path.name for path in run.checkpoints_dir.iterdir())
    assert left == [".step-000125.tmp", "notes", "step-000075", "step-000100"]


def test_pruning_keeps_all_where_there_are_few() -> None:
    run = RunDir.create(JobConfig(), "infill")
    publish(run.checkpoint_dir(25))
    prune(run.checkpoints_dir, keep=2)
    assert newest_complete(run.checkpoints_dir) == run.checkpoint_dir(25)
