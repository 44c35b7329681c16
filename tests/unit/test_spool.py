"""The queue of what MLflow has not taken yet: a file that gives back what it was given."""

import json
import shutil
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.errors import UserError
from gfn_ray.tracking.spool import Spool
from testing.full_disk import no_room_beyond

ENTRIES = [{"number": i, "text": "ä" * i} for i in range(4)]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "untracked"


def filled(file):
    spool = Spool(file)
    for entry in ENTRIES:
        spool.append(entry)
    return spool


def test_what_waits_comes_back_in_its_order(file):
    assert list(filled(file)) == ENTRIES
    assert list(Spool(file)) == ENTRIES, "after a kill, too"


def test_what_is_delivered_does_not_come_back(file):
    filled(file).drop(3)
    again = Spool(file)
    assert list(again) == ENTRIES[3:]
    again.append({"number": 9})
    assert list(again) == [*ENTRIES[3:], {"number": 9}]


def test_an_empty_queue_takes_no_room_and_leaves_no_file(file):
    spool = filled(file)
    spool.drop(len(ENTRIES))
    assert spool.empty and file.stat().st_size == 0
    spool.close()
    assert not file.exists()


def test_a_full_disk_stops_nothing_and_what_was_delivered_comes_again_only_after_a_restart(file):
    spool = filled(file)
    with no_room_beyond(file.stat().st_size):
        spool.drop(1)
        assert list(spool) == ENTRIES[1:]
        assert list(Spool(file)) == ENTRIES
        spool.drop(3)
    assert spool.empty


def test_a_directory_that_is_gone_does_not_hinder_closing(tmp_path):
    (tmp_path / "run").mkdir()
    spool = Spool(tmp_path / "run" / "untracked")
    shutil.rmtree(tmp_path / "run")
    spool.close()


@given(st.integers(min_value=0, max_value=2**20))
def test_a_torn_end_is_cut_and_the_rest_is_there(tmp_path_factory, cut):
    file = tmp_path_factory.mktemp("torn") / "untracked"
    filled(file)
    whole = file.read_bytes()
    kept = whole[: cut % (len(whole) + 1)]
    file.write_bytes(kept)
    assert list(Spool(file)) == ENTRIES[: kept.count(b"\n")]


def test_a_damaged_line_is_refused_with_its_number(file):
    filled(file)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], b"{no json\n", *lines[2:]]))
    with pytest.raises(UserError, match=r"untracked, line 2 is damaged .* remove the file"):
        Spool(file)


@given(st.lists(st.integers(min_value=0, max_value=3), max_size=12))
def test_any_order_of_appends_and_drops_is_a_queue(tmp_path_factory, drops):
    spool = Spool(tmp_path_factory.mktemp("queue") / "untracked")
    waiting = []
    for number, count in enumerate(drops):
        spool.append({"number": number})
        waiting.append(number)
        count = min(count, len(waiting))
        spool.drop(count)
        del waiting[:count]
        assert [entry["number"] for entry in spool] == waiting
        assert spool.empty == (not waiting)


def test_a_person_can_read_every_line_as_json_behind_its_checksum(file):
    filled(file).drop(2)
    lines = [json.loads(line.partition(" ")[2]) for line in file.read_text().splitlines()]
    assert list(islice(lines, 4)) == ENTRIES
    assert list(lines[4]) == ["delivered"]
