"""Run directories that are not what they should be: exit 2, one sentence, nothing changed."""

from __future__ import annotations

import hashlib
import logging
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

import gfn_ray
from gfn_ray.cli import parse
from gfn_ray.config import CompareJob
from gfn_ray.models.adapter_files import WEIGHTS_FILE
from gfn_ray.models.merged import merged_model_dir
from gfn_ray.replay.journal.store import ReplayStore
from gfn_ray.replay.journal.write_ahead_log import framed, read_log
from gfn_ray.runs.checkpoints import find_resumption, restore_replay
from gfn_ray.runs.compare_runs import compare_runs
from gfn_ray.runs.display import make_display
from gfn_ray.runs.published import newest_complete, prune, publish_directory
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.runtime.run import open_resumed
from gfn_ray.serving.description import FILE
from gfn_ray.storage.atomic import COMPLETE, damage
from gfn_ray.storage.serialization import pack, unpack
from gfn_ray.tasks.random_number.config import RandomNumberJob
from gfn_ray.tasks.random_number.task import RandomNumberTask
from gfn_ray.tasks.task import TaskData
from testing.good_run import STEPS, TASK, copy_run, data_of, mark_again, settings
from testing.refusals import contents, refusal, unprivileged
from testing.refused_places import (
    OUT_OF_SIGHT,
    Spoil,
    a_file,
    a_pipe,
    below,
    cut,
    empty,
    fill,
    flip,
    gone,
    promise_too_much,
    replace,
)


@pytest.fixture(scope="module")
def data(tiny_dir: Path, good_home: Path) -> TaskData:
    return data_of(settings(tiny_dir, good_home))


def checkpoints(run: Path) -> list[Path]:
    return [run / "checkpoints" / f"step-{step:06d}" for step in STEPS]


def each(spoil: Spoil, name: str) -> Spoil:
    """Spoils the same file of every checkpoint."""
    return lambda run: [spoil(one / name) for one in checkpoints(run)]


def each_written_so(spoil: Spoil, name: str) -> Spoil:
    """The same, with checksums of what came of it: another program wrote it so."""
    return lambda run: [(spoil(one / name), mark_again(one)) for one in checkpoints(run)]


def torn_name(run: Path) -> Path:
    """Where a writer that dies leaves what it has not marked yet."""
    newest = checkpoints(run)[-1]
    (newest / COMPLETE).unlink()
    return newest.with_name(f".{newest.name}.tmp")


def of_format(number: int) -> Spoil:
    return lambda file: file.write_bytes(pack({**unpack(file.read_bytes()), "format": number}))


def listing(checkpoint: Path, name: Path) -> None:
    """A marker that gives the right checksum of a file that is not the checkpoint's own."""
    secret = checkpoint.parents[2] / "secret"
    secret.write_text("a person's own")
    checksum = hashlib.sha256(secret.read_bytes()).hexdigest()
    (checkpoint / COMPLETE).write_text(f"{checksum}  {name}\n")


def finished(run: Path) -> None:
    (run / "summary.json").write_text("{}")


def finished_without_checkpoints(run: Path) -> None:
    finished(run)
    empty(run / "checkpoints")
    empty_file(run / "metrics.jsonl")  # it had no update to make


def empty_file(file: Path) -> None:
    file.write_text("")


def without_last_line(file: Path) -> None:
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


# --- A run to be resumed ---


def resume(home: Path, data: TaskData, steps: int = 6) -> None:
    config = parse(RandomNumberJob, ["--resume", str(home / "run"), "--steps", str(steps)])
    open_resumed(config, RandomNumberTask(config), data, make_display(steps, 2))


RUNS: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "missing": (gone, ("--resume got", "has no config.toml")),
    "a file": (a_file, ("--resume got", "has no config.toml")),
    "empty": (empty, ("--resume got", "has no config.toml")),
    "settings and no run": (below("checkpoints", gone), ("--resume got", "has no checkpoints")),
    "another job's": (
        below("config.toml", replace("[task]", "[task]\nmiddle = 3")),
        ("unknown setting task.middle in", "config.toml"),
    ),
    "settings of another rank": (
        below("config.toml", replace("lora_rank = 8", "lora_rank = 16")),
        ("policy.lora_rank is 16, but was 8", "restore it in"),
    ),
    "another task's": (
        each_written_so(replace(f'task = "{TASK}"', 'task = "infill"'), FILE),
        ("a run of task 'infill'", "this job's task is 'random_number'"),
    ),
    "a flipped bit in every checkpoint": (
        each(flip, "training"),
        ("no checkpoint", "is intact", "step-000004/training is not as it was written"),
    ),
    "a flipped bit in every adapter": (each(flip, WEIGHTS_FILE), (WEIGHTS_FILE, "not as it was")),
    "a flipped bit in every replay": (each(flip, "replay"), ("step-000004/replay is not as",)),
    "truncated checkpoints": (each(cut, "training"), ("training is not as it was written",)),
    "checkpoints that lack a file": (
        each(Path.unlink, "training"),
        ("step-000004/training is missing",),
    ),
    "checkpoints without markers": (
        each(Path.unlink, COMPLETE),
        ("no checkpoint", "step-000004 has no file COMPLETE"),
    ),
    "markers of no sense": (each(fill, COMPLETE), ("COMPLETE cannot be read",)),
    "markers that list nothing": (
        each(lambda file: file.write_text("x\n"), COMPLETE),
        ("COMPLETE is not a list of checksums",),
    ),
    "markers that were emptied": (
        each(empty_file, COMPLETE),
        ("no checkpoint", "step-000004/COMPLETE is empty"),
    ),
    "markers that were cut off after a line": (
        each(without_last_line, COMPLETE),
        ("no checkpoint", "step-000004/COMPLETE does not list training"),
    ),
    "an emptied marker of the measurements": (
        below("start/COMPLETE", empty_file),
        ("start/COMPLETE is empty", "start a new run"),
    ),
    "markers that lead elsewhere": (
        lambda run: [listing(one, run.parent / "secret") for one in checkpoints(run)],
        ("COMPLETE lists a path that is not below it",),
    ),
    "markers that lead above": (
        lambda run: [listing(one, Path("../../../secret")) for one in checkpoints(run)],
        ("COMPLETE lists a path that is not below it",),
    ),
    "a pipe in the place of a file": (
        each(a_pipe, "training"),
        ("training is not a regular file",),
    ),
    "pipes for markers": (each(a_pipe, COMPLETE), ("COMPLETE is not a regular file",)),
    "a newer format": (
        each_written_so(of_format(99), "training"),
        ("step-000004/training has format 99", "version of gfn_ray that wrote it"),
    ),
    "training of no sense": (each_written_so(fill, "training"), ("step-000004/training is damag",)),
    "training that promises too much": (
        each_written_so(promise_too_much, "training"),
        ("step-000004/training is damaged",),
    ),
    "updates and no checkpoint": (
        below("checkpoints", empty),
        ("metrics.jsonl records updates", "has no intact checkpoint", "start a new"),
    ),
    "updates and a checkpoint that was never whole": (
        lambda run: [gone(checkpoints(run)[0]), checkpoints(run)[1].rename(torn_name(run))],
        ("metrics.jsonl records updates", "has no intact checkpoint"),
    ),
    "no measurements": (below("start", gone), ("start is missing or torn", "start a new run")),
    "damaged measurements": (
        below("start/measured", flip),
        ("start/measured is not as it was written", "start a new run"),
    ),
    "an address without its password": (
        below("config.toml", replace("sqlite:///", "http://***@host")),
        ("tracking.uri http://***@host", "give the whole address as --tracking.uri"),
    ),
}


@pytest.mark.parametrize("case", RUNS)
def test_what_is_no_whole_run_is_not_resumed(
    case: str, home: Path, data: TaskData, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, named = RUNS[case]
    spoil(home / "run")
    refusal(lambda: resume(home, data, steps=4), home, capsys, *named)


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (finished, "which finished after 4 updates; raise --steps to train further"),
        (finished_without_checkpoints, "which finished and no longer has a checkpoint"),
    ],
)
def test_of_a_finished_run_nothing_is_left_to_do(
    end: Callable[[Path], None],
    why: str,
    home: Path,
    data: TaskData,
    capsys: pytest.CaptureFixture[str],
) -> None:
    end(home / "run")
    before = contents(home)
    assert resume(home, data, steps=4) is None
    assert f"nothing is left to do: {home / 'run'} holds a run {why}" in capsys.readouterr().out
    assert contents(home) == before


def test_a_run_that_another_process_has_is_not_resumed(
    home: Path, data: TaskData, capsys: pytest.CaptureFixture[str]
) -> None:
    with FileLock(home / "run" / ".lock"):
        refusal(
            lambda: resume(home, data), home, capsys, str(home / "run"), "in use by another job"
        )


@pytest.mark.parametrize("make", OUT_OF_SIGHT)
def test_a_run_at_which_nobody_can_look_is_not_opened(
    make: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path)

    def ask() -> None:
        with unprivileged():
            RunDir.reopen(path)

    refusal(ask, tmp_path, capsys, f"--resume: cannot read {str(path)[:200]}", OUT_OF_SIGHT[make])


def test_a_run_whose_checkpoints_cannot_be_listed_is_not_opened(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_file(home / "run" / "checkpoints")
    named = ("--resume", "checkpoints cannot be listed", "Not a directory")
    refusal(lambda: RunDir.reopen(home / "run"), home, capsys, *named)


def test_of_damaged_checkpoints_the_newest_whole_one_counts_and_the_others_are_set_aside(
    home: Path, data: TaskData, caplog: pytest.LogCaptureFixture
) -> None:
    older, newest = checkpoints(home / "run")
    flip(newest / "training")
    config = parse(RandomNumberJob, ["--resume", str(home / "run")])
    run, before = RunDir(home / "run"), contents(home)
    with caplog.at_level(logging.WARNING):
        found = find_resumption(run, TASK, config, data.held_out)
    assert found is not None and found.training["controller"]["step"] == STEPS[0]
    (told,) = caplog.messages
    assert f"{newest.name} is damaged" in told and f"resuming from {older}" in told
    assert contents(home) == before

    restore_replay(run, found)
    assert newest_complete(run.checkpoints_dir) == older
    with publish_directory(run.checkpoint_dir(3)) as directory:
        (directory / "training").write_bytes(b"newer")
    prune(run.checkpoints_dir, keep=1)
    assert newest_complete(run.checkpoints_dir) == run.checkpoint_dir(3)


@pytest.mark.parametrize("left", [".step-000004.tmp", ".step-000004.old"])
@pytest.mark.parametrize("final", ["gone", "torn", "damaged"])
def test_a_whole_checkpoint_that_a_dead_writer_left_beside_its_name_counts(
    final: str, left: str, home: Path, data: TaskData
) -> None:
    run, (older, newest) = RunDir(home / "run"), checkpoints(home / "run")
    gone(older)
    copy_run(newest, newest.with_name(left))
    {"gone": gone, "torn": lambda one: (one / COMPLETE).unlink(), "damaged": spoil_training}[final](
        newest
    )
    config, before = parse(RandomNumberJob, ["--resume", str(home / "run")]), contents(home)
    found = find_resumption(run, TASK, config, data.held_out)
    assert found is not None and found.training["controller"]["step"] == STEPS[-1]
    assert contents(home) == before

    restore_replay(run, found)
    names = {path.name for path in run.checkpoints_dir.iterdir()}
    assert names == {newest.name} | ({f"{newest.name}.damaged"} if final == "damaged" else set())
    assert damage(newest) is None


def spoil_training(checkpoint: Path) -> None:
    flip(checkpoint / "training")


def test_the_state_of_a_training_does_not_outlive_its_use(home: Path, data: TaskData) -> None:
    config = parse(RandomNumberJob, ["--resume", str(home / "run")])
    found = find_resumption(RunDir(home / "run"), TASK, config, data.held_out)
    assert found is not None
    weights = weakref.ref(found.training["learner"]["policy"]["parameters"]["0"])
    training = found.hand_over()
    assert training["controller"]["step"] == STEPS[-1] and weights() is not None
    del training
    assert weights() is None


def test_a_resumed_run_shortens_its_own_files_and_no_others(home: Path) -> None:
    run = RunDir(home / "run")
    stories = run.path / "stories.jsonl"
    stories.write_text('{"a": "person\'s own"}\n')
    restore_replay(run, None)
    assert run.metrics_file.stat().st_size == 0
    assert stories.read_text() == '{"a": "person\'s own"}\n'


def test_a_run_that_is_trained_further_is_not_finished_until_it_is_again(
    home: Path, data: TaskData
) -> None:
    """Else one that is killed in its last evaluation for the second time has no way on."""
    run = RunDir(home / "run")
    run.write_summary({"steps": STEPS[-1]})
    config = parse(RandomNumberJob, ["--resume", str(home / "run"), "--steps", "9"])
    restore_replay(run, find_resumption(run, TASK, config, data.held_out))
    assert not run.summary_file.exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"run_id": 3}', "[" * 100_000])
def test_a_damaged_account_of_what_mlflow_has_is_refused(
    content: str, home: Path, data: TaskData, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(home / "run")
    run.write_summary({"steps": STEPS[-1]})
    run.tracking_file.write_text(content)
    refusal(
        lambda: resume(home, data, steps=STEPS[-1]),
        home,
        capsys,
        "tracking.json is damaged",
        "remove it to continue",
    )


# --- Replay ---


def flip_the_first_call(replay: Path) -> None:
    log = replay / "wal"
    begin = read_log(log).records[1][0]
    flip(log, (begin + 50) / log.stat().st_size)


STORES: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "a log that is damaged in the middle": (
        flip_the_first_call,
        ("wal is damaged at byte", "in record 1, and intact records follow", "move"),
    ),
    "a log of a newer format": (
        lambda replay: fill(replay / "wal", framed(pack({"format": 9}))),
        (
            "wal: the record at byte 0",
            "it has format 9",
        ),
    ),
    "a log of no sense": (
        lambda replay: fill(replay / "wal"),
        ("wal is damaged at byte 0, in record 0; restore the file",),
    ),
    "a snapshot with a flipped bit": (
        lambda replay: flip(replay / "wal", 0.1),
        ("wal is damaged at byte 0, in record 0, and intact records follow",),
    ),
    "a log that is a directory": (
        lambda replay: ((replay / "wal").unlink(), (replay / "wal").mkdir()),
        ("replay cannot be kept in", "Is a directory"),
    ),
    "a file in its place": (a_file, ("replay cannot be kept in",)),
}


@pytest.mark.parametrize("case", STORES)
def test_a_damaged_store_is_not_opened(
    case: str, home: Path, tiny_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, named = STORES[case]
    spoil(home / "run" / "replay")
    config = settings(tiny_dir, home)
    refusal(
        lambda: ReplayStore(home / "run" / "replay", config.replay, config.seed, lock_wait=0),
        home,
        capsys,
        *named,
    )


def test_the_good_places_are_good(home: Path, data: TaskData, tiny_dir: Path) -> None:
    resume(home, data)
    gfn_ray.open(home / "run" / "adapter").close()
    assert Path(merged_model_dir(str(tiny_dir), home / "run" / "adapter", False)).is_dir()
    assert compare_runs(CompareJob(runs=(home / "run", home / "run"))) == 0


# --- Runs to be compared, and places to write to ---

COMPARED: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "missing": (gone, ("cannot read", "--runs takes directories")),
    "a file": (a_file, ("cannot read",)),
    "empty": (empty, ("cannot read",)),
    "a damaged line": (
        below("queries.jsonl", replace('"phase": "after"', '"phase": after')),
        ("queries.jsonl, line 4 is damaged", "leave the run out"),
    ),
    "a line of bytes": (
        lambda run: fill(run / "queries.jsonl", b"\xff\xfe\n"),
        ("queries.jsonl, line 1 is damaged",),
    ),
    "a line that is no object": (
        lambda run: fill(run / "queries.jsonl", b"[1]\n"),
        ("queries.jsonl, line 1 is damaged (no JSON object with a query_id)",),
    ),
    "a line without its query": (
        below("diagnostics.jsonl", replace('"query_id": "q2"', '"query": 2')),
        ("diagnostics.jsonl, line 3 is damaged",),
    ),
    "a line that nests too deep": (
        lambda run: fill(run / "queries.jsonl", b"[" * 100_000),
        ("queries.jsonl, line 1 is damaged",),
    ),
}


@pytest.mark.parametrize("case", COMPARED)
def test_what_is_no_finished_run_is_not_compared(
    case: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, named = COMPARED[case]
    spoil(home / "run")
    runs = (home / "run", home / "run")
    refusal(lambda: compare_runs(CompareJob(runs=runs)), home, capsys, str(home / "run"), *named)


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("run", "which is not empty"),
        ("run/config.toml", "cannot be written (File exists)"),
        ("run/config.toml/below", "cannot be written (Not a directory)"),
        ("/proc/gfn_ray", "/proc/gfn_ray cannot be written"),
        ("/sys/gfn_ray", "/sys/gfn_ray cannot be written"),
    ],
)
def test_a_run_begins_in_a_new_directory_that_can_be_written(
    place: str, named: str, home: Path, tiny_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(tiny_dir, home).model_copy(update={"run_dir": home / place})
    refusal(lambda: RunDir.create(config, TASK), home, capsys, "--run-dir got", place, named)


@pytest.mark.parametrize("made_before", [False, True])
def test_a_run_that_never_began_leaves_the_place_as_it_was(
    made_before: bool, home: Path, tiny_dir: Path
) -> None:
    place = home / "an" / "other"
    if made_before:
        place.mkdir(parents=True)
    before = contents(home)
    run = RunDir.create(settings(tiny_dir, home).model_copy(update={"run_dir": place}), TASK)
    run.write_config("steps = 1\n")
    run.discard()
    assert contents(home) == before
    assert place.exists() == made_before
