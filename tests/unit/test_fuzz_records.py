"""Whatever the bytes, a reader gives a value or its documented refusal, and no altered record."""

from __future__ import annotations

import json
import shutil
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from gfn_ray.config import JobConfig
from gfn_ray.errors import UserError
from gfn_ray.models.adapter_files import CONFIG_FILE, WEIGHTS_FILE, check_adapter
from gfn_ray.policy.adapter import load_adapter
from gfn_ray.replay import ReplayBuffer
from gfn_ray.replay.journal.write_ahead_log import framed, read_log
from gfn_ray.runs.checkpoints import TRAINING_FILE, find_resumption
from gfn_ray.runs.compare_runs import read_run
from gfn_ray.runs.published import publish_directory
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.serving.description import FILE, read_description
from gfn_ray.storage.atomic import COMPLETE, checksums, damage
from gfn_ray.storage.json_lines import line
from gfn_ray.storage.serialization import pack, unpack
from gfn_ray.tracking import TrackingState
from testing.courses import (
    CONFIGS,
    NEVER_ROLLS,
    ROLLS_OFTEN,
    buffer_after,
    crashed_after,
    log_in,
    restored,
    same,
)
from testing.examples import examples

CALLS = 6  # in a log
fuzz = examples(100)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for all examples; each writes anew what it reads."""
    return tmp_path_factory.mktemp("fuzzed")


@st.composite
def spoiled(draw: st.DrawFn, good: bytes) -> bytes:
    """Any bytes, or good ones with some of them flipped, cut off, inserted or doubled."""
    how = draw(st.sampled_from(["any", "flip", "cut", "insert", "double", "grow"]))
    if how == "any":
        return draw(st.binary(max_size=300))
    place = draw(st.integers(0, len(good) - 1))
    if how == "flip":
        bits = draw(st.integers(1, 255))
        return good[:place] + bytes([good[place] ^ bits]) + good[place + 1 :]
    if how == "cut":
        return good[:place]
    if how == "grow":  # a number that was 8 bytes long is now as large as it can be
        return good[:place] + b"\xff" * 7 + b"\x7f" + good[place + 8 :]
    other = draw(st.integers(0, len(good)))
    added = draw(st.binary(max_size=40)) if how == "insert" else good[place:other]
    return good[:place] + added + good[place:]


def outcome(read: Callable[[], Any], refusal: type[Exception]) -> tuple[Any, str]:
    """A value and "", or None and the refusal's words; memory for no more than there is."""
    tracemalloc.start()
    try:
        return read(), ""
    except refusal as refused:
        return None, str(refused)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 << 20


# --- Records: packed ones, and files of them ---

RECORD = {"call": "add", "n": {"ids": np.arange(5), "x": np.array([0.5])}, "names": ["a", None]}


@fuzz
@given(spoiled(pack(RECORD)))
def test_unpacking_any_bytes_gives_a_record_or_a_value_error(data: bytes) -> None:
    found, _ = outcome(lambda: unpack(data), ValueError)
    assert found is None or isinstance(found, dict)


@fuzz
@given(
    st.dictionaries(
        st.sampled_from(["json", "a", "a/b", "a/b/c", "", "/"]),
        st.sampled_from(["F32", "U8", "BF16", "F8_E4M3", "X"]),
        max_size=3,
    ),
    st.sampled_from([b"{}", b'{"a": {}}', b'{"a": 1}', b"[1]", b"\xff", b"[" * 5000]),
)
def test_a_header_of_any_tensors_gives_a_record_or_a_value_error(
    tensors: dict[str, str], text: bytes
) -> None:
    sizes = {"F32": 4, "U8": 1, "BF16": 2, "F8_E4M3": 1, "X": 1}
    header: dict[str, Any] = {}
    body = b""
    for name, kind in tensors.items():
        part = text if name == "json" and kind == "U8" else bytes(sizes[kind])
        shape = [len(part) // sizes[kind]]
        span = [len(body), len(body) + len(part)]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": span}
        body += part
    encoded = json.dumps(header).encode()
    data = len(encoded).to_bytes(8, "little") + encoded + body
    found, _ = outcome(lambda: unpack(data), ValueError)
    assert found is None or isinstance(found, dict)


PAYLOADS = [b"first", bytes(200), b"\xf5REC" * 3, b"last"]


@fuzz
@given(spoiled(b"".join(map(framed, PAYLOADS))))
def test_the_log_gives_back_records_that_were_written_or_refuses(place: Path, data: bytes) -> None:
    file = place / "wal"
    file.write_bytes(data)
    found, said = outcome(lambda: read_log(file), UserError)
    if found is None:
        assert str(file) in said and "\n" not in said
        return
    assert all(payload in PAYLOADS for _, payload in found.records)
    assert found.size + found.torn == len(data)


@cache
def after(calls: int) -> ReplayBuffer:
    return buffer_after(CONFIGS[0], 0, calls)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stores with calls after an empty snapshot, and after one that was compacted on the way."""
    made = {kind: tmp_path_factory.mktemp(kind) for kind in ("calls", "snapshot")}
    crashed_after(made["calls"], CONFIGS[0], 0, CALLS, NEVER_ROLLS)
    crashed_after(made["snapshot"], CONFIGS[0], 0, CALLS, ROLLS_OFTEN)
    return made


@pytest.mark.parametrize("kind", ["calls", "snapshot"])
@examples(40)
@given(drawn=st.data())
def test_a_store_with_a_fault_holds_the_first_of_its_calls_or_is_refused(
    kind: str, drawn: st.DataObject, stores: dict[str, Path], place: Path
) -> None:
    directory = place / f"store-{kind}"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(stores[kind], directory)
    file = log_in(directory)
    good = file.read_bytes()
    at = drawn.draw(st.integers(0, len(good) - 1))
    intact = len(read_log(file).records[0][1]) <= at
    if drawn.draw(st.booleans()):
        bits = drawn.draw(st.integers(1, 255))
        file.write_bytes(good[:at] + bytes([good[at] ^ bits]) + good[at + 1 :])
    else:
        file.write_bytes(good[:at])
    buffer, said = outcome(lambda: restored(directory, CONFIGS[0], 0), UserError)
    if buffer is None:
        assert str(file) in said and "\n" not in said
    else:
        assert intact, "a snapshot is whole or nothing"
        assert any(same(buffer, after(calls)) for calls in range(CALLS + 1))


# --- Directories that are published whole ---


@fuzz
@given(spoiled(b"0" * 64 + b"  file\n" + b"f" * 64 + b"  another\n"))
def test_a_marker_of_any_bytes_vouches_for_what_it_lists_alone(place: Path, marker: bytes) -> None:
    directory = place / "published"
    directory.mkdir(exist_ok=True)
    (directory / "file").write_bytes(b"content")
    (directory / COMPLETE).write_bytes(marker)
    found, _ = outcome(lambda: damage(directory), UserError)
    assert found is not None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run with one checkpoint."""
    run = RunDir(tmp_path_factory.mktemp("run"))
    with publish_directory(run.checkpoint_dir(2)) as directory:
        (directory / TRAINING_FILE).write_bytes(CONTENT)
    return run


CONTENT = pack({"format": 2, "learner": {"weights": np.ones(9)}, "controller": {"step": 2}})


@fuzz
@given(spoiled(CONTENT))
def test_a_checkpoint_of_any_bytes_is_refused_unless_they_are_its_own(
    run: RunDir, data: bytes
) -> None:
    (run.checkpoint_dir(2) / TRAINING_FILE).write_bytes(data)
    if data != CONTENT:
        none, said = outcome(lambda: find_resumption(run, "infill", JobConfig(), []), UserError)
        assert none is None and f"step-000002/{TRAINING_FILE} is not as it was written" in said


DESCRIPTION = b'format = 1\ntask = "infill"\n\n[settings]\nsteps = 5\n'


@fuzz
@given(spoiled(DESCRIPTION), st.booleans())
def test_a_description_of_any_bytes_is_read_or_refused(
    place: Path, data: bytes, written_so: bool
) -> None:
    directory = place / "adapter"
    directory.mkdir(exist_ok=True)
    (directory / FILE).write_bytes(DESCRIPTION)
    (directory / COMPLETE).write_text(checksums(directory))
    (directory / FILE).write_bytes(data)
    if written_so:
        (directory / COMPLETE).write_text(checksums(directory))
    found, said = outcome(lambda: read_description(directory), UserError)
    if found is None:
        assert str(directory) in said
    else:
        assert written_so or data == DESCRIPTION
        assert isinstance(found.task, str) and isinstance(found.settings, dict)


PEFT = {"peft_type": "LORA", "r": 2, "target_modules": ["q"], "rank_pattern": {}}
TENSORS = {"m.q.lora_A.weight": np.ones((2, 3), np.float32)}
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@fuzz
@given(
    spoiled(json.dumps(PEFT).encode())
    | st.fixed_dictionaries({}, optional={name: json_values for name in PEFT}).map(
        lambda changes: json.dumps({**PEFT, **changes}).encode()
    ),
    spoiled(save(TENSORS)) | st.just(save(TENSORS)),
)
def test_an_adapter_of_any_bytes_is_read_or_refused(
    place: Path, config: bytes, weights: bytes
) -> None:
    directory = place / "adapter"
    directory.mkdir(exist_ok=True)
    (directory / CONFIG_FILE).write_bytes(config)
    (directory / WEIGHTS_FILE).write_bytes(weights)
    found, said = outcome(lambda: load_adapter(directory), UserError)
    if found is None:
        assert str(directory) in said and "\n" not in said
    else:
        assert check_adapter(directory, "the adapter")[0]["r"] == 2, "no rank but the tensors'"


# --- Lines ---


@fuzz
@given(
    spoiled("".join(line({"phase": "after", "query_id": q, "elbo": 0.5}) for q in "ab").encode())
    | st.lists(json_values, max_size=3).map(lambda v: "\n".join(map(json.dumps, v)).encode())
)
def test_rows_of_any_bytes_are_read_or_refused(place: Path, data: bytes) -> None:
    run = RunDir(place)
    run.queries_file.unlink(missing_ok=True)
    run.append_queries([{"phase": "before", "query_id": "a", "elbo": 1.0}])
    run.append_diagnostics([])
    with run.queries_file.open("ab") as out:
        out.write(data)
    found, said = outcome(lambda: read_run(run), UserError)
    if found is None:
        assert str(run.path) in said and "\n" not in said
    else:
        values = [v for one in found.after.values() for v in one.values()]
        assert all(isinstance(value, float) for value in values)


ACCOUNT = TrackingState(
    run_id="0123456789abcdef", numbers={"metrics.jsonl": 99}, artifacts=["adapter"]
)


@fuzz
@given(
    spoiled(ACCOUNT.model_dump_json().encode())
    | st.fixed_dictionaries(
        {}, optional={name: json_values for name in TrackingState.model_fields}
    ).map(lambda changes: json.dumps({**ACCOUNT.model_dump(), **changes}).encode())
)
def test_an_account_of_what_mlflow_has_is_one_or_refused(place: Path, data: bytes) -> None:
    (place / "tracking.json").write_bytes(data)
    found, said = outcome(lambda: TrackingState.read(place), UserError)
    if found is None:
        assert "tracking.json is damaged" in said and "\n" not in said
    else:
        assert isinstance(found.run_id, str)
        assert all(size >= 0 for size in (*found.numbers.values(), *found.tables.values()))


def test_a_length_that_no_file_has_costs_no_memory(tmp_path: Path) -> None:
    length = 2**40
    head = struct.pack("<4sQI", b"\xf5REC", length, zlib.crc32(struct.pack("<Q", length)))
    (tmp_path / "wal").write_bytes(framed(b"snapshot") + head + b"x")
    found, _ = outcome(lambda: read_log(tmp_path / "wal"), UserError)
    assert ([payload for _, payload in found.records], found.torn) == ([b"snapshot"], len(head) + 1)
    for header in (2**62, 2**32, 99_999_999):
        data = header.to_bytes(8, "little") + b"{}"
        assert "not a packed record" in outcome(lambda data=data: unpack(data), ValueError)[1]
