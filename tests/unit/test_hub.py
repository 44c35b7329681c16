"""Datasets as the hub has them, from directories of this disk, which its package reads alike: which
of their parts are read, under which names, and what is said where that cannot be."""

from __future__ import annotations

import json

import pytest

from gfn_ray.config import DataConfig
from gfn_ray.data.stories import ROC_COLUMNS, load_splits
from gfn_ray.errors import UserError
from gfn_ray.tasks.continuation.config import PromptDataConfig
from gfn_ray.tasks.continuation.data import load_prompts
from gfn_ray.tasks.subjectivity.config import SubjectivityDataConfig
from gfn_ray.tasks.subjectivity.data import load_sentences

pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def dataset(directory, **splits):
    directory.mkdir()
    for name, rows in splits.items():
        (directory / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(directory)


@pytest.fixture
def subj(tmp_path):
    """Columns sentence and label; of ten test sentences two stand in the training split."""
    rows = [{"sentence": f"Film {i} is fun.", "label": i % 2} for i in range(58)]
    return dataset(tmp_path / "subj", train=rows[:50], test=rows[48:])


def test_a_test_split_is_tested_on_and_the_others_are_not(subj):
    data = SubjectivityDataConfig(hub=subj, columns=("sentence=text",), test_split="test")
    splits = load_sentences(data)
    assert len(splits.pool) + len(splits.validation) == 50
    assert [one.text for one in splits.test] == [f"Film {i} is fun." for i in range(50, 58)]
    assert splits.notes == (
        "2 of 10 sentences in the test data are in other data of the run, too: left out of the "
        "test data",
    )


def test_a_part_of_a_split_is_read_alone(subj):
    data = PromptDataConfig(
        hub=subj, columns=("sentence=text",), split="train[:10]", test_split="test[5:]"
    )
    splits = load_prompts(data)
    assert {one.text for one in splits.train} == {f"Film {i} is fun." for i in range(10)}
    assert [one.text for one in splits.held_out] == [f"Film {i} is fun." for i in range(53, 58)]
    assert len({one.prompt_id for one in (*splits.train, *splits.held_out)}) == 15


def test_without_a_test_split_all_splits_are_read_and_cut_by_their_content(subj):
    splits = load_prompts(PromptDataConfig(hub=subj, columns=("sentence=text",)))
    assert len(splits.train) + len(splits.held_out) == 60


def test_one_of_several_configurations_is_chosen(tmp_path):
    story = dict(zip(ROC_COLUMNS, ["s1", "", "A.", "B.", "C.", "D.", "E."], strict=True))
    hub = dataset(tmp_path / "roc", a=[story], b=[story | {"storyid": "s2", "sentence1": "Z."}])
    (tmp_path / "roc" / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files: a.jsonl\n"
        "- config_name: two\n  data_files: b.jsonl\n---\n"
    )
    splits = load_splits(DataConfig(hub=hub, hub_config="two"))
    (found,) = [*splits.train, *splits.validation, *splits.test]
    assert found.story_id == "s2"
    with pytest.raises(UserError, match=r"\['one', 'two'\]; choose one by --data\.hub-config"):
        load_splits(DataConfig(hub=hub))
    with pytest.raises(UserError, match=r"'three' not found.*; choose one by --data\.hub-config"):
        load_splits(DataConfig(hub=hub, hub_config="three"))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"split": "dev"}, r'Unknown split "dev".* \[\'train\', \'test\'\]; change --data\.split'),
        ({"split": "train[:9x"}, "Unrecognized instruction.*; change --data.split"),
        ({}, "subj, train: missing column text; found sentence, label; .*sentence=text"),
        (
            {"columns": ("sentence=text", "kind=label_text")},
            "data.columns renames kind, and no data have a column or key of that name; correct it",
        ),
    ],
)
def test_what_is_not_there_is_named_with_what_is(subj, settings, complaint):
    with pytest.raises(UserError, match=complaint):
        load_sentences(SubjectivityDataConfig(hub=subj, **settings))


def test_a_dataset_of_its_test_split_alone_has_nothing_to_train_on(tmp_path):
    hub = dataset(tmp_path / "only", test=[{"text": "A."}])
    with pytest.raises(UserError, match=r"no split except data\.test_split \(test\); give"):
        load_prompts(PromptDataConfig(hub=hub, test_split="test"))


def test_a_dataset_that_a_script_loads_is_no_matter_of_the_network(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "old.py").write_text("raise SystemExit('run')\n")
    with pytest.raises(UserError, match=r"its own Python script.*Parquet.*--data\.path") as said:
        load_splits(DataConfig(hub=str(tmp_path / "old")))
    assert "network" not in str(said.value)


def test_a_hub_out_of_reach_is_one():
    with pytest.raises(
        UserError, match=r"cannot load 'nobody/nothing'.*; check the id and the net"
    ):
        load_splits(DataConfig(hub="nobody/nothing"))
