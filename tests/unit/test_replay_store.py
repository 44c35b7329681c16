"""Nothing acknowledged is lost: whatever a crash leaves behind, the buffer comes back as it was."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.config import ReplayConfig
from gfn_ray.errors import UserError
from gfn_ray.replay import ReplayBuffer
from gfn_ray.replay.journal.store import start_from
from testing.courses import (
    CONFIGS,
    GROUP,
    NEVER_ROLLS,
    ROLLS_OFTEN,
    Course,
    assert_acknowledged,
    assert_equal,
    buffer_after,
    crashed_after,
    log_in,
    opened,
    restored,
)
from testing.examples import examples

ROOT = Path(__file__).parents[2]

configs = st.sampled_from(CONFIGS)
seeds = st.integers(0, 2**16)


# Any course, any crash


@examples(60)
@given(configs, seeds, st.integers(0, 40), st.sampled_from([ROLLS_OFTEN, 9000, NEVER_ROLLS]))
def test_a_restored_buffer_equals_the_one_before(
    tmp_path_factory: pytest.TempPathFactory,
    config: ReplayConfig,
    seed: int,
    steps: int,
    limit: int,
) -> None:
    directory = tmp_path_factory.mktemp("run") / "replay"
    crashed_after(directory, config, seed, steps, limit)
    assert_equal(restored(directory, config, seed), buffer_after(config, seed, steps))


@examples(30)
@given(configs, seeds, st.lists(st.integers(1, 8), min_size=2, max_size=4))
def test_a_store_restored_again_and_again_goes_on_as_if_never_ended(
    tmp_path_factory: pytest.TempPathFactory, config: ReplayConfig, seed: int, spans: list[int]
) -> None:
    directory, course = tmp_path_factory.mktemp("run") / "replay", Course(seed)
    for steps in spans:
        store = opened(directory, config, seed, limit=9000)
        for _ in range(steps):
            course.step(store)
        store.close()
    assert_equal(restored(directory, config, seed), buffer_after(config, seed, sum(spans)))


@examples(30)
@given(configs, seeds, st.integers(0, 20), st.integers(0, 20))
def test_a_cleared_store_is_restored_as_one_that_was_new_then_but_for_its_newest_version(
    tmp_path_factory: pytest.TempPathFactory,
    config: ReplayConfig,
    seed: int,
    before: int,
    after: int,
) -> None:
    directory = tmp_path_factory.mktemp("run") / "replay"
    store = opened(directory, config, seed)
    forgotten, kept, again = Course(seed), Course(seed), Course(seed)
    for _ in range(before):
        forgotten.step(store)
    newest = store.buffer.newest_version
    store.clear()
    expected = ReplayBuffer(config, seed, group=GROUP, newest_version=newest)
    assert store.buffer.newest_version == expected.newest_version == newest
    for _ in range(after):
        assert kept.step(store) == again.step(expected)
    store.close()
    assert_equal(restored(directory, config, seed), expected)


@examples(60)
@given(configs, seeds, st.integers(1, 20), st.data())
def test_a_log_torn_at_any_byte_gives_the_buffer_after_the_calls_before(
    tmp_path_factory: pytest.TempPathFactory,
    config: ReplayConfig,
    seed: int,
    steps: int,
    data: st.DataObject,
) -> None:
    directory = tmp_path_factory.mktemp("run") / "replay"
    sizes = crashed_after(directory, config, seed, steps, NEVER_ROLLS)
    before = sizes[-2]
    os.truncate(log_in(directory), data.draw(st.integers(before, sizes[-1] - 1)))
    assert_equal(restored(directory, config, seed), buffer_after(config, seed, steps - 1))
    assert log_in(directory).stat().st_size == before


@examples(80)
@given(configs, seeds, st.integers(1, 12), st.integers(1, 255), st.data())
def test_a_changed_byte_is_cut_in_the_last_record_and_refused_anywhere_else(
    tmp_path_factory: pytest.TempPathFactory,
    config: ReplayConfig,
    seed: int,
    steps: int,
    flip: int,
    data: st.DataObject,
) -> None:
    directory = tmp_path_factory.mktemp("run") / "replay"
    sizes = crashed_after(directory, config, seed, steps, NEVER_ROLLS)
    log = log_in(directory)
    content = bytearray(log.read_bytes())
    # Bytes of calls: those of the snapshot before them are most of the file.
    at = data.draw(st.integers(0, len(content) - 1) | st.integers(sizes[0], len(content) - 1))
    content[at] ^= flip
    log.write_bytes(content)
    if at >= sizes[-2]:
        assert_equal(restored(directory, config, seed), buffer_after(config, seed, steps - 1))
        return
    with pytest.raises(UserError, match="damaged at byte") as refusal:
        opened(directory, config, seed)
    assert str(log) in str(refusal.value) and "move" in str(refusal.value)
    assert log.read_bytes() == content, "what is refused is left as it was found"


@examples(40)
@given(configs, seeds, st.integers(1, 255), st.data())
def test_a_changed_byte_of_a_snapshot_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
    config: ReplayConfig,
    seed: int,
    flip: int,
    data: st.DataObject,
) -> None:
    directory = tmp_path_factory.mktemp("run") / "replay"
    store, course = opened(directory, config, seed), Course(seed)
    for _ in range(6):
        course.step(store)
    store.close()
    content = bytearray(store.snapshot())
    content[data.draw(st.integers(0, len(content) - 1))] ^= flip
    start_from(directory, bytes(content))
    with pytest.raises(UserError, match="damaged at byte 0, in record 0") as refusal:
        opened(directory, config, seed)
    assert str(log_in(directory)) in str(refusal.value)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_crash_between_any_two_file_operations_loses_nothing(
    config: ReplayConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, seed, steps = tmp_path / "replay", 5, 50
    acknowledged = compactions = 0
    crashes: list[tuple[Path, int]] = []
    replaced = os.replace
    for name in ("open", "write", "fsync", "ftruncate", "replace", "unlink"):
        operation = getattr(os, name)

        def watched(*args: Any, operation: Any = operation, **kwargs: Any) -> Any:
            nonlocal compactions
            compactions += operation is replaced
            if directory.exists():
                copy = tmp_path / f"crash-{len(crashes)}"
                with monkeypatch.context() as unwatched:
                    unwatched.undo()
                    shutil.copytree(directory, copy)
                crashes.append((copy, acknowledged))
            return operation(*args, **kwargs)

        monkeypatch.setattr(os, name, watched)
    store, course = opened(directory, config, seed, ROLLS_OFTEN), Course(seed)
    for _ in range(steps):
        course.step(store)
        acknowledged += 1
    store.close()
    monkeypatch.undo()

    assert compactions >= 2
    assert len(crashes) > steps
    for copy, calls in crashes:
        assert_acknowledged(restored(copy, config, seed), config, seed, calls)


# A real process and a real kill

CHILD = """
import sys
from pathlib import Path
from testing.courses import CONFIGS, Course, opened

store, course = opened(Path(sys.argv[1]), CONFIGS[0], seed=7, limit=20_000), Course(7)
while True:
    course.step(store)
    print("acknowledged", flush=True)
"""


@pytest.mark.parametrize("moment", [1, 17, 60, 143])
def test_a_killed_process_loses_no_acknowledged_call(moment: int, tmp_path: Path) -> None:
    directory = tmp_path / "replay"
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as child:
        assert child.stdout is not None
        for _ in range(moment):
            assert child.stdout.readline() == "acknowledged\n"
        child.send_signal(signal.SIGKILL)
        # Whole lines that were on their way; a torn one is not an acknowledgement.
        acknowledged = moment + child.stdout.read().count("acknowledged\n")
    assert_acknowledged(restored(directory, CONFIGS[0], 7), CONFIGS[0], 7, acknowledged)
