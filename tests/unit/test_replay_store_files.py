"""What a replay store keeps, and what it refuses with a sentence rather than guess."""

from __future__ import annotations

import errno
import itertools
import logging
import os
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.config import ReplayConfig
from gfn_ray.errors import UserError
from gfn_ray.replay import ReplayBuffer
from gfn_ray.replay.journal.store import empty_store, start_from
from gfn_ray.replay.journal.write_ahead_log import framed, read_log
from gfn_ray.storage.serialization import pack, unpack
from gfn_ray.storage.trajectories import pack_trajectories
from gfn_ray.trajectory import Trajectory
from testing.courses import (
    CONFIGS,
    GROUP,
    NEVER_ROLLS,
    QUERIES,
    ROLLS_OFTEN,
    Course,
    assert_equal,
    buffer_after,
    crashed_after,
    log_in,
    opened,
    random_trajectory,
    restored,
)
from testing.examples import examples


@pytest.mark.parametrize("limit", [ROLLS_OFTEN, NEVER_ROLLS])
def test_every_field_of_a_trajectory_comes_back_bit_for_bit(limit: int, tmp_path: Path) -> None:
    config = ReplayConfig(capacity=500, per_query=500)
    sent = {one.query_id + str(one.token_ids): one for one in _scored(300)}
    store = opened(tmp_path / "replay", config, limit=limit)
    store.add(pack_trajectories(list(sent.values())))
    store.close()
    back = restored(tmp_path / "replay", config, 0)
    assert len(back) == len(sent)
    for one in (one for query in QUERIES for one in back.trajectories_of(query)):
        before = sent[one.query_id + str(one.token_ids)]
        for field in fields(Trajectory):
            old, new = getattr(before, field.name), getattr(one, field.name)
            if isinstance(old, np.ndarray):
                assert old.dtype == new.dtype and old.tobytes() == new.tobytes(), field.name
            else:
                assert type(old) is type(new) and (old == new or old != old), field.name


def _scored(count: int) -> list[Trajectory]:
    rng = np.random.default_rng(0)
    return [random_trajectory(rng, 3) for _ in range(count)]


def test_of_two_near_neighbours_a_restored_buffer_finds_the_one_that_would_have_been_found() -> (
    None
):
    (some,) = _scored(1)
    config = ReplayConfig(edit_distance=1)

    def z(*tokens: int, reward: float) -> Trajectory:
        return replace(
            some,
            token_ids=np.array(tokens, dtype=np.int32),
            tool_mask=np.zeros(3, dtype=np.bool_),
            terminable=np.ones(4, dtype=np.bool_),
            sampler_log_pf=np.zeros(3, dtype=np.float32),
        ).scored([reward] * 4)

    buffer = ReplayBuffer(config, 0, group=GROUP)
    # The third takes the first one's place, but comes after the second where both are compared.
    for one in (z(1, 1, 1, reward=0), z(1, 3, 3, reward=0), z(1, 1, 2, reward=1)):
        buffer.add([one])
    back = ReplayBuffer(config, 0, group=GROUP)
    back.restore(unpack(pack(buffer.state())))
    near_both = [z(1, 1, 3, reward=2)]
    buffer.add(near_both)
    back.add(near_both)
    assert_equal(buffer, back)


def test_the_torn_end_is_cut_with_a_line_that_says_how_many_bytes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crashed_after(tmp_path, CONFIGS[0], 0, 3, NEVER_ROLLS)
    with log_in(tmp_path).open("ab") as log:
        log.write(framed(b"never finished")[:-5])
    with caplog.at_level(logging.WARNING):
        restored(tmp_path, CONFIGS[0], 0)
    (line,) = caplog.messages
    assert f"cut {len(framed(b'never finished')) - 5} bytes" in line
    assert "3 calls" in line


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    start_from(tmp_path, framed(pack({"format": 2, "of": "another kind"})))
    with pytest.raises(UserError, match="it has format 2, but this gfn_ray reads format 1"):
        opened(tmp_path, CONFIGS[0])


@pytest.mark.parametrize(
    "change, name",
    [({"alpha": 0.5}, "replay.alpha"), ({"capacity": 7, "per_query": 5}, "replay.capacity")],
)
def test_a_store_of_other_settings_is_refused(change: dict, name: str, tmp_path: Path) -> None:
    crashed_after(tmp_path, CONFIGS[0], 0, 3, NEVER_ROLLS)
    with pytest.raises(UserError, match=f"{name} is .* was written with"):
        opened(tmp_path, CONFIGS[0].model_copy(update=change))


def test_a_setting_that_the_buffer_does_not_read_may_change(tmp_path: Path) -> None:
    crashed_after(tmp_path, CONFIGS[0], 0, 3, NEVER_ROLLS)
    opened(tmp_path, CONFIGS[0].model_copy(update={"samples_per_insert": 1.0}))


def test_a_directory_has_one_owner_at_a_time(tmp_path: Path) -> None:
    first = opened(tmp_path, CONFIGS[0])
    with pytest.raises(UserError, match="in use by another process"):
        opened(tmp_path, CONFIGS[0])
    first.close()
    opened(tmp_path, CONFIGS[0])


@pytest.mark.parametrize("put_in_place", [empty_store, partial(start_from, snapshot=b"")])
def test_a_store_that_is_open_is_not_replaced(put_in_place: Any, tmp_path: Path) -> None:
    first, course = opened(tmp_path, CONFIGS[0], limit=NEVER_ROLLS), Course(0)
    course.step(first)
    with pytest.raises(UserError, match="in use by another process"):
        put_in_place(tmp_path, lock_wait=0)
    for _ in range(4):
        course.step(first)
    first.close()
    assert_equal(restored(tmp_path, CONFIGS[0], 0), buffer_after(CONFIGS[0], 0, 5))


def test_a_store_that_is_replaced_keeps_its_lock_and_what_is_not_its_own(tmp_path: Path) -> None:
    place, other = tmp_path / "replay", opened(tmp_path / "other", CONFIGS[0])
    crashed_after(place, CONFIGS[0], 0, 3, NEVER_ROLLS)
    (place / "of-another-program").mkdir()
    for number in range(3):
        Course(number).step(other)
    start_from(place, other.snapshot())
    assert {path.name for path in place.iterdir()} == {"lock", "wal", "of-another-program"}
    assert_equal(restored(place, CONFIGS[0], 0), other.buffer)
    empty_store(place)
    assert {path.name for path in place.iterdir()} == {"lock", "of-another-program"}
    assert_equal(restored(place, CONFIGS[0], 0), ReplayBuffer(CONFIGS[0], 0, group=GROUP))


def test_a_refused_call_leaves_no_trace(tmp_path: Path) -> None:
    store, before = opened(tmp_path, CONFIGS[0]), log_in(tmp_path).read_bytes()
    (good,) = _scored(1)
    bad = good.scored(np.where(good.terminable, -np.inf, np.nan))
    calls: list[Callable[[], Any]] = [
        lambda: store.add(pack_trajectories([good, bad])),
        lambda: store.sample(0, 1, 0),
        lambda: store.update_priorities([0], [0], [np.nan]),
    ]
    for call in calls:
        with pytest.raises(ValueError):
            call()
    store.close()
    assert log_in(tmp_path).read_bytes() == before
    assert_equal(restored(tmp_path, CONFIGS[0], 0), ReplayBuffer(CONFIGS[0], 0, group=GROUP))


@pytest.mark.parametrize("written", [0, 9])
def test_after_a_full_disk_nothing_more_is_acknowledged_and_a_new_store_is_right(
    written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, course = opened(tmp_path, CONFIGS[0], limit=NEVER_ROLLS), Course(0)
    for _ in range(5):
        course.step(store)
    write, room = os.write, written

    def on_a_full_disk(descriptor: int, data: Any) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken, room = room, 0
        return write(descriptor, data[:taken])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", on_a_full_disk)
        with pytest.raises(UserError, match="No space left on device"):
            course.step(store)
    with pytest.raises(UserError, match="No space left on device"):
        course.step(store)
    store.close()
    assert_equal(restored(tmp_path, CONFIGS[0], 0), buffer_after(CONFIGS[0], 0, 5))


def test_the_log_is_compacted_so_that_the_disk_is_bounded(tmp_path: Path) -> None:
    store, course = opened(tmp_path, CONFIGS[0], limit=3000), Course(1)
    largest_snapshot = 0
    sizes = [log_in(tmp_path).stat().st_size]
    for _ in range(300):
        course.step(store)
        assert {file.name for file in tmp_path.iterdir()} == {"lock", "wal"}
        largest_snapshot = max(largest_snapshot, len(store.snapshot()))
        sizes.append(log_in(tmp_path).stat().st_size)
    assert max(sizes) < 3 * largest_snapshot
    assert sum(after < before for before, after in itertools.pairwise(sizes)) > 5


# Bytes of no sense


@examples(200)
@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_the_log_reader_says_what_is_wrong_with_any_bytes(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, has_snapshot: bool, is_record: bool
) -> None:
    directory = tmp_path_factory.mktemp("run")
    crashed_after(directory, CONFIGS[0], 0, 0, NEVER_ROLLS)
    log = log_in(directory)
    content = framed(noise) if is_record else noise
    log.write_bytes((log.read_bytes() if has_snapshot else b"") + content)
    try:
        restored(directory, CONFIGS[0], 0)
    except UserError as refusal:
        assert str(log) in str(refusal)
        assert "\n" not in str(refusal)
    else:
        assert has_snapshot and not is_record
        assert read_log(log).torn == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
arrays = st.lists(st.floats(-9, 9), max_size=4).map(np.array)
own_keys = ["block", "key", "arguments", "slots", "generations", "losses", "length", "token_ids"]


@given(
    st.sampled_from(["add", "sample", "update_priorities"]) | json_values,
    st.dictionaries(st.sampled_from(own_keys), json_values | arrays),
)
def test_a_whole_record_of_no_sense_is_refused(
    tmp_path_factory: pytest.TempPathFactory, call: Any, record: dict[str, Any]
) -> None:
    directory = tmp_path_factory.mktemp("run")
    crashed_after(directory, CONFIGS[0], 0, 2, NEVER_ROLLS)
    log = log_in(directory)
    with log.open("ab") as out:
        out.write(framed(pack({**record, "call": call})))
    try:
        restored(directory, CONFIGS[0], 0)
    except UserError as refusal:
        assert f"{log}: the record at byte" in str(refusal)
