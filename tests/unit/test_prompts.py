"""Prompts from files and tables: what is read, what is refused, and which part it falls into."""

import pytest

from gfn_ray.config import DataConfig
from gfn_ray.data.columns import Columns
from gfn_ray.data.hub import load_tables
from gfn_ray.data.stories import load_stories, split
from gfn_ray.errors import UserError
from gfn_ray.tasks.continuation.config import PromptDataConfig
from gfn_ray.tasks.continuation.data import _of_tables, load_prompts


class Table:
    def __init__(self, **columns):
        self.column_names = list(columns)
        self._columns = columns

    def __iter__(self):
        names = self.column_names
        rows = zip(*self._columns.values(), strict=True)
        return iter([dict(zip(names, row, strict=True)) for row in rows])


def of_file(tmp_path, raw, **settings):
    file = tmp_path / "prompts.txt"
    file.write_bytes(raw)
    return load_prompts(PromptDataConfig(path=file, **settings))


def together(splits):
    return [*splits.train, *splits.held_out]


def test_embedded_prompts_are_two_sentences_and_stay_in_their_storys_part():
    found = load_prompts(PromptDataConfig())
    splits = split(load_stories(DataConfig()))
    for prompts, stories in ((found.train, splits.train), (found.held_out, splits.test)):
        assert [p.prompt_id for p in prompts] == [s.story_id for s in stories]
        assert all(
            p.text == " ".join(s.sentences[:2]) and p.following == s.sentences[2]
            for p, s in zip(prompts, stories, strict=True)
        )


def test_a_line_is_a_prompt_with_its_white_space_folded_and_blank_lines_are_none(tmp_path):
    raw = "\ufeffIt  rained. \n\n\tThe shop\u00a0was closed.\r\nLast".encode()
    found = {p.prompt_id: p.text for p in together(of_file(tmp_path, raw))}
    assert found == {"line-1": "It rained.", "line-3": "The shop was closed.", "line-4": "Last"}


def test_equal_prompts_fall_into_the_same_part_and_most_are_trained_on(tmp_path):
    lines = [f"Sentence number {i % 500}." for i in range(1000)]
    found = of_file(tmp_path, "\n".join(lines).encode())
    assert len(together(found)) == 1000
    assert not {p.text for p in found.train} & {p.text for p in found.held_out}
    assert 120 < len(found.held_out) < 280


def test_only_the_first_prompts_are_taken(tmp_path):
    found = together(of_file(tmp_path, b"One.\n\nTwo.\nThree.\n", limit=2))
    assert sorted(p.prompt_id for p in found) == ["line-1", "line-3"]


@pytest.mark.parametrize(
    ("raw", "message"),
    [(b"Fine.\n\xff\xfe\n", "line 2: bytes that are not UTF-8"), (b"\n \n", "holds no prompt")],
)
def test_a_file_that_is_no_text_is_refused(tmp_path, raw, message):
    with pytest.raises(UserError, match=message):
        of_file(tmp_path, raw)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "absent.txt"):
        with pytest.raises(UserError, match=r"--data\.path: cannot read"):
            load_prompts(PromptDataConfig(path=path))


def test_a_table_gives_the_texts_of_its_column():
    tables = {"train": Table(body=["One.", " ", "Two."], n=[1, 2, 3]), "test": Table(body=["X."])}
    columns = Columns({"body": "text"})
    found = [(p.prompt_id, p.text) for p in _of_tables(tables, "a/b", columns)]
    assert found == [("train-1", "One."), ("train-3", "Two."), ("test-1", "X.")]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            Table(para=["One."], n=[1]),
            "a/b, train: missing column text; found para, n; .*para=text",
        ),
        (Table(body=["One.", 2]), "row 2, column body: expected text, got int"),
    ],
)
def test_a_table_without_texts_is_refused(table, message):
    with pytest.raises(UserError, match=message):
        list(_of_tables({"train": table}, "a/b", Columns({"body": "text"})))


def test_a_dataset_that_cannot_be_loaded_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"--data\.hub") as refused:
        load_tables(PromptDataConfig(hub="nobody/nothing"))
    assert "\n" not in str(refused.value)
