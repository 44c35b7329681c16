"""Rows of prompts: every format alike, and what is malformed by file, row and column."""

import csv
import datetime
import json

import pyarrow
import pytest
from pyarrow import parquet

from gfn_ray.errors import UserError
from gfn_ray.tasks.prompts.config import RowsConfig
from gfn_ray.tasks.prompts.data import load_rows, prompt_of

ROWS = [{"prompt": f"How much is {i} + 1?", "answer": str(i + 1)} for i in range(40)]
CHAT = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            separator = "\t" if path.suffix == ".tsv" else ","
            writer = csv.DictWriter(file, rows[0].keys(), delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
    return path


def loaded(path, **settings):
    return load_rows(RowsConfig(path=path, **settings))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.parquet"])
def test_every_format_gives_the_same_rows(name, tmp_path):
    splits = loaded(write(tmp_path / name, ROWS))
    found = {one.row.prompt: one.row.columns for one in (*splits.train, *splits.held_out)}
    assert found == {row["prompt"]: {"answer": row["answer"]} for row in ROWS}


def test_the_split_follows_from_the_prompt_alone(tmp_path):
    first = loaded(write(tmp_path / "a.jsonl", ROWS))
    fewer = loaded(write(tmp_path / "b.csv", ROWS[::-2]))
    held_out = {one.row.prompt for one in first.held_out}
    assert 0 < len(held_out) < len(ROWS) / 2
    assert {one.row.prompt for one in fewer.held_out} <= held_out
    assert not held_out & {one.row.prompt for one in (*first.train, *fewer.train)}


def test_a_test_file_is_all_of_the_test_but_for_what_is_trained_on(tmp_path):
    path, test = write(tmp_path / "a.jsonl", ROWS[:30]), write(tmp_path / "b.jsonl", ROWS[28:])
    splits = loaded(path, test_path=test)
    assert len(splits.train) == 30 and len(splits.held_out) == 10
    assert "2 of 12 prompts" in splits.notes[0]
    assert not {one.row_id for one in splits.train} & {one.row_id for one in splits.held_out}


def test_columns_by_other_names_are_read_as_what_they_are_said_to_be(tmp_path):
    rows = [{"question": row["prompt"], "solution": row["answer"]} for row in ROWS]
    splits = loaded(
        write(tmp_path / "a.jsonl", rows), columns=("question=prompt", "solution=answer")
    )
    assert splits.train[0].row.columns.keys() == {"answer"}


def test_cells_keep_their_types_where_the_format_has_any(tmp_path):
    row = {"prompt": "x", "level": 3, "tags": ["a", "b"], "given": None, "hard": True}
    for name in ("a.jsonl", "a.parquet"):
        splits = loaded(write(tmp_path / name, [row]))
        (one,) = (*splits.train, *splits.held_out)
        assert one.row.columns == {key: row[key] for key in row if key != "prompt"}


@pytest.mark.parametrize("cell", [CHAT, json.dumps(CHAT)], ids=["list", "text"])
def test_a_chat_is_a_list_of_messages_or_a_text_that_is_one(cell):
    assert prompt_of(cell, "row 1") == CHAT


def test_a_text_that_only_begins_like_messages_stays_a_text():
    assert prompt_of("[{ is how it begins", "row 1") == "[{ is how it begins"


def test_a_demonstration_is_no_column_of_the_reward(tmp_path):
    splits = loaded(write(tmp_path / "a.jsonl", [{"prompt": "x", "demonstration": " y"}]))
    (one,) = (*splits.train, *splits.held_out)
    assert one.demonstration == " y" and one.row.columns == {}


def test_the_embedded_sets_are_of_three_different_words_and_none_comes_twice():
    splits = load_rows(RowsConfig())
    sets = [frozenset(one.row.columns["words"].split(", ")) for one in splits.train]
    held_out = [frozenset(one.row.columns["words"].split(", ")) for one in splits.held_out]
    assert len({*sets, *held_out}) == len(sets) + len(held_out) >= 150
    assert len(held_out) >= 24
    assert all(len(words) == 3 for words in (*sets, *held_out))


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": 3}\n', r"a\.jsonl, line 2, column prompt: .* 3"),
        ("a.jsonl", '{"prompt": " "}\n', r"line 1, column prompt: empty"),
        ("a.jsonl", '{"question": "x"}\n', r"line 1: missing column prompt; .*question=prompt"),
        ("a.jsonl", '{"prompt": "x"\n', r"line 1: .* at column"),
        ("a.jsonl", '["x"]\n', r"line 1: expected an object"),
        ("a.jsonl", '{"prompt": [{"role": "user"}]}\n', r"column prompt: .*role and content"),
        ("a.jsonl", '{"prompt": "x", "demonstration": 3}\n', r"demonstration: expected a text"),
        ("a.jsonl", "\n", "has no row"),
        ("a.csv", "prompt,answer\nx,1\ny\n", r"a\.csv, line 3: 1 cells, and the header has 2"),
        ("a.csv", "prompt,answer\nx,1,2\n", r"line 2: 3 cells, and the header has 2"),
        ("a.csv", 'prompt\n"x\n', "not valid CSV"),
        ("a.csv", "prompt\n", "has no row"),
        ("a.parquet", "PAR1", "no Parquet file"),
        ("a.txt", "x", r"\.jsonl, \.csv, \.tsv or \.parquet"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_refused_by_its_place(name, content, complaint, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=complaint):
        loaded(tmp_path / name)


def test_bytes_that_are_no_text_are_refused_by_their_place(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"prompt,answer\nx,\xff\n")
    with pytest.raises(UserError, match="line 2, column answer: bytes that are not UTF-8"):
        loaded(tmp_path / "a.csv")


def test_a_cell_that_no_json_holds_is_refused_by_its_place(tmp_path):
    rows = [{"prompt": "x", "day": datetime.date(2026, 1, 1)}]
    with pytest.raises(UserError, match=r"a\.parquet, row 1, column day: a date"):
        loaded(write(tmp_path / "a.parquet", rows))


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_file_that_is_not_there_is_refused(name, tmp_path):
    with pytest.raises(UserError, match=r"--data\.path"):
        loaded(tmp_path / name)
