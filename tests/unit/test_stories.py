"""Stories: what loads, what is refused and where, and which part a story falls into."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

from gfn_ray.config import DataConfig
from gfn_ray.data.columns import Columns
from gfn_ray.data.stories import (
    CLOZE_COLUMNS,
    ROC_COLUMNS,
    Story,
    load_stories,
    split,
    stories_from_tables,
)
from gfn_ray.errors import UserError

ROC = ["a1", "A Walk", "Ann rose.", "She ate.", "She left, at last.", "It rained.", "She ran."]
CLOZE = ["c1", "Rick ran.", "He fell.", "He rose.", "He won.", "He is sad.", "He is glad.", "2"]
PLAIN = Columns({})
REAL_CLOZE = (
    Path(__file__).parents[2] / "../shared/data/stories/cloze_test_val__spring2016.csv"
).resolve()


def to_csv(*rows: list[str] | tuple[str, ...]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8")


def changed(row: list[str], column: int, cell: str) -> list[str]:
    return [*row[:column], cell, *row[column + 1 :]]


@pytest.fixture
def load(tmp_path: Path):
    def load(raw: bytes) -> list[Story]:
        path = tmp_path / "stories.csv"
        path.write_bytes(raw)
        return load_stories(DataConfig(path=path))

    return load


def test_a_rocstories_row_becomes_a_story(load):
    assert load(to_csv(ROC_COLUMNS, ROC)) == [Story("a1", "A Walk", tuple(ROC[2:]))]


@pytest.mark.parametrize(("answer", "ending"), [("1", "He is sad."), ("2", "He is glad.")])
def test_a_cloze_row_ends_with_its_right_ending(load, answer, ending):
    (story,) = load(to_csv(CLOZE_COLUMNS, changed(CLOZE, 7, answer)))
    assert story == Story("c1", "", ("Rick ran.", "He fell.", "He rose.", "He won.", ending))


def test_columns_may_stand_in_any_order_beside_others(load):
    columns, row = ["note", *reversed(ROC_COLUMNS)], ["seen", *reversed(ROC)]
    assert load(to_csv(columns, row)) == load(to_csv(ROC_COLUMNS, ROC))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\xef\xbb\xbf" + to_csv(ROC_COLUMNS, ROC), id="byte-order mark"),
        pytest.param(to_csv(ROC_COLUMNS, ROC).replace(b"\r\n", b"\n"), id="unix line ends"),
        pytest.param(to_csv(ROC_COLUMNS, ROC).rstrip(), id="no last line end"),
        pytest.param(to_csv(ROC_COLUMNS, ROC, [], []), id="blank lines at the end"),
        pytest.param(
            to_csv(ROC_COLUMNS, changed(ROC, 3, " She\n  ate. ")), id="white space in a cell"
        ),
    ],
)
def test_the_same_story_is_read_from(load, raw):
    assert load(raw) == [Story("a1", "A Walk", tuple(ROC[2:]))]


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_what_separates_cells_is_known_by_the_header(load, separator):
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=separator)
    comma = "She left, at last; or not|so.\tYes."
    writer.writerows([["note", *ROC_COLUMNS], ["a, b", *changed(ROC, 4, comma)]])
    (story,) = load(b"\xef\xbb\xbf\r\n" + text.getvalue().encode())
    assert story == Story("a1", "A Walk", (*ROC[2:4], " ".join(comma.split()), *ROC[5:]))


def test_columns_with_other_names_are_read_by_data_columns(tmp_path):
    theirs = ["id", "storytitle", *(f"s{i}" for i in range(1, 6))]
    file = tmp_path / "stories.csv"
    file.write_bytes(to_csv(theirs, ROC).replace(b",", b";").replace(b"She left;", b"She left,"))
    pairs = ("id=storyid", *(f"s{i}=sentence{i}" for i in range(1, 6)))
    (story,) = load_stories(DataConfig(path=file, columns=pairs))
    assert story.story_id == "a1" and story.sentences[2] == "She left, at last."
    with pytest.raises(UserError, match=r"missing columns storyid.*; found id, storytitle, s1, s2"):
        load_stories(DataConfig(path=file))


def test_text_beyond_ascii_is_kept(load):
    (story,) = load(to_csv(ROC_COLUMNS, changed(ROC, 2, "Zoë ate crème brûlée: “yum” 🍮.")))
    assert story.sentences[0] == "Zoë ate crème brûlée: “yum” 🍮."


def second(*cells: str) -> bytes:
    return to_csv(ROC_COLUMNS, ROC, cells)


ROC2 = ["a2", *ROC[1:]]
MALFORMED = {
    "missing cell": (second(*ROC2[:6]), "line 3, column sentence5: missing: 6 cells"),
    "empty sentence": (second(*changed(ROC2, 4, "")), "line 3, column sentence3: empty"),
    "blank sentence": (second(*changed(ROC2, 6, " \t")), "line 3, column sentence5: empty"),
    "empty id": (second(*changed(ROC2, 0, "")), "line 3, column storyid: empty"),
    "extra cell": (second(*ROC2, "more"), "line 3, column number 8: surplus: 8 cells, expected 7"),
    "duplicate id": (second(*ROC), "line 3, column storyid: 'a1' is already used in .*line 2"),
    "NUL": (second(*changed(ROC2, 2, "A\0n.")), "line 3, column sentence1: a NUL byte"),
    "NUL in the title": (second(*changed(ROC2, 1, "\0")), "line 3, column storytitle: a NUL"),
    "latin-1": (
        second(*changed(ROC2, 2, "Zoë.")).replace("ë".encode(), b"\xeb"),
        "line 3, column sentence1: bytes that are not UTF-8",
    ),
    "encoded surrogate": (
        to_csv(ROC_COLUMNS, ROC).replace(b"ate", b"\xed\xa0\x80"),
        "line 2, column sentence2: bytes that are not UTF-8",
    ),
    "cells that span lines before it": (
        to_csv(ROC_COLUMNS, changed(ROC, 2, "Ann\nrose\r\nlate."), [], ROC2[:5]),
        "line 6, column sentence4: missing",
    ),
    "answer 3": (
        to_csv(CLOZE_COLUMNS, changed(CLOZE, 7, "3")),
        "line 2, column AnswerRightEnding: expected 1 or 2, got '3'",
    ),
    "no answer": (
        to_csv(CLOZE_COLUMNS, changed(CLOZE, 7, "")),
        "line 2, column AnswerRightEnding: expected 1 or 2, got ''",
    ),
    "empty wrong ending": (
        to_csv(CLOZE_COLUMNS, changed(CLOZE, 5, "")),
        "line 2, column RandomFifthSentenceQuiz1: empty",
    ),
    "text after a quote": (
        to_csv(ROC_COLUMNS, ROC) + b'a2,"T" x,a,b,c,d,e',
        "line 3: not valid CSV",
    ),
    "open quote": (to_csv(ROC_COLUMNS, ROC) + b'a2,"T,a\nb\nc', "line 3: not valid CSV"),
    "empty file": (b"", "is empty"),
    "only blank lines": (b"\n\r\n", "is empty"),
    "only a header": (to_csv(ROC_COLUMNS), "holds no story"),
    "no header": (to_csv(ROC, ROC2), "line 1: missing columns storyid, storytitle, sentence1"),
    "one column short": (
        to_csv(CLOZE_COLUMNS[:-1], CLOZE[:-1]),
        "line 1: missing column AnswerRightEnding; found InputStoryid, Input.* those of ROCStories",
    ),
    "column twice": (to_csv([*ROC_COLUMNS, "sentence1"], ROC), "columns named twice: 'sentence1'"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_refused_by_file_line_and_column(load, name):
    raw, complaint = MALFORMED[name]
    with pytest.raises(UserError, match=rf"stories\.csv.*{complaint}"):
        load(raw)


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--data\.path: cannot read .*none\.csv: No such file"):
        load_stories(DataConfig(path=tmp_path / "none.csv"))
    with pytest.raises(UserError, match=r"--data\.path: .* is a directory"):
        load_stories(DataConfig(path=tmp_path))


def test_the_embedded_stories_load_and_fill_every_part():
    stories = load_stories(DataConfig())
    parts = split(stories)
    assert len(stories) >= 100
    assert all(len(story.sentences) == 5 and story.title for story in stories)
    assert min(len(parts.train), len(parts.validation), len(parts.test)) >= 20


def test_the_story_cloze_release_loads():
    if not REAL_CLOZE.is_file():
        pytest.skip(f"no {REAL_CLOZE.name} here: it is handed out by form only")
    stories = load_stories(DataConfig(path=REAL_CLOZE))
    assert len(stories) == 1871
    assert stories[0].sentences[-1] == "He is happy now."


def stories(count: int) -> list[Story]:
    return [Story(f"s{i}", "", ("A.", "B.", "C.", "D.", "E.")) for i in range(count)]


def test_the_split_never_changes():
    # `printf s17 | sha256sum` starts with bb..cc; below b333.. is train, from cccc.. on test.
    parts = split(stories(30))
    assert [story.story_id for story in parts.validation] == ["s17", "s20"]
    assert [story.story_id for story in parts.test[:5]] == ["s0", "s1", "s9", "s10", "s12"]
    assert len(parts.train) == 18


def test_a_story_keeps_its_part_whatever_else_is_loaded():
    few, many = split(stories(200)), split(reversed(stories(2000)))
    assert set(few.train) <= set(many.train)
    assert set(few.validation) <= set(many.validation)
    assert set(few.test) <= set(many.test)


def test_the_parts_are_disjoint_and_meet_the_fractions():
    parts = split(stories(5000))
    assert sorted(s.story_id for s in parts.train + parts.validation + parts.test) == sorted(
        s.story_id for s in stories(5000)
    )
    sizes = [len(parts.train), len(parts.validation), len(parts.test)]
    assert sizes == pytest.approx([3500, 500, 1000], rel=0.1)


def test_a_part_may_be_empty():
    assert split(stories(50), (1.0, 0.0, 0.0)).train == stories(50)


@pytest.mark.parametrize("fractions", [(0.7, 0.2), (0.7, 0.2, 0.2), (1.2, -0.2, 0.0)])
def test_fractions_must_be_three_shares_of_one(fractions):
    with pytest.raises(ValueError, match=re.escape(str(fractions))):
        split(stories(1), fractions)


class TestHub:
    """Tables as `datasets` gives them; the hub itself is never called."""

    @staticmethod
    def tables(**parts):
        datasets = pytest.importorskip("datasets")
        return datasets.DatasetDict(
            {part: datasets.Dataset.from_list(rows) for part, rows in parts.items()}
        )

    def test_all_its_splits_are_read_together(self):
        row = dict(zip(ROC_COLUMNS, ROC, strict=True))
        tables = self.tables(train=[row], test=[row | {"storyid": "a2"}])
        assert [s.story_id for s in stories_from_tables(tables, "me/roc", PLAIN)] == ["a1", "a2"]

    def test_an_answer_may_be_a_number(self):
        row = dict(zip(CLOZE_COLUMNS, CLOZE, strict=True)) | {"AnswerRightEnding": 1}
        (story,) = stories_from_tables(self.tables(train=[row]), "me/cloze", PLAIN)
        assert story.sentences[-1] == "He is sad."

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            ({"sentence2": None}, "train, row 2, column sentence2: expected text, got NoneType"),
            ({"sentence2": ""}, "train, row 2, column sentence2: empty"),
            ({"storyid": "a1"}, "train, row 2, column storyid: 'a1' is already used in .*row 1"),
        ],
    )
    def test_a_malformed_row_is_refused_by_split_row_and_column(self, change, complaint):
        row = dict(zip(ROC_COLUMNS, ROC, strict=True))
        tables = self.tables(train=[row, row | {"storyid": "a2"} | change])
        with pytest.raises(UserError, match=f"me/roc, {complaint}"):
            stories_from_tables(tables, "me/roc", PLAIN)

    def test_missing_columns_are_named(self):
        with pytest.raises(
            UserError, match=r"me/roc, train: missing columns storyid.*; found text"
        ):
            stories_from_tables(self.tables(train=[{"text": "Ann rose."}]), "me/roc", PLAIN)

    def test_a_hub_out_of_reach_is_the_users_to_mend(self, monkeypatch):
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(UserError, match=r"--data.hub: cannot load 'gfn-ray/none'.*--data.path"):
            load_stories(DataConfig(hub="gfn-ray/none"))
