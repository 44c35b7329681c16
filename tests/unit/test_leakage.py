"""A test that is given apart: it alone is tested on, all else is trained on, and nothing stands in
both. For each task that reads files, by what its loader makes of two of them."""

from __future__ import annotations

import json

import pytest

from gfn_ray.config import DataConfig
from gfn_ray.data import stories
from gfn_ray.errors import UserError
from gfn_ray.tasks.arithmetic import files
from gfn_ray.tasks.arithmetic.config import ArithmeticConfig, ArithmeticDataConfig
from gfn_ray.tasks.arithmetic.data import parse
from gfn_ray.tasks.continuation.config import PromptDataConfig
from gfn_ray.tasks.continuation.data import load_prompts
from gfn_ray.tasks.subjectivity.config import SubjectivityDataConfig
from gfn_ray.tasks.subjectivity.data import load_sentences

NONE_LEFT = r"the other data contain all of them; give another test by --data\.test-path"


def write(path, text):
    path.write_text(text)
    return path


def csv_of(rows):
    return "\n".join([",".join(stories.ROC_COLUMNS), *(",".join(row) for row in rows)])


def story(i, name="Ann"):
    return [
        f"s{i}",
        "",
        *(f"{name} {i} {verb}." for verb in ("woke", "ate", "ran", "fell", "slept")),
    ]


class Stories:
    """One way for all tasks to name rows and to read them: by numbers, of which equal ones are
    equal in content."""

    noun = "story"

    @staticmethod
    def rows(numbers):
        return csv_of(story(i) for i in numbers)

    @staticmethod
    def respelled(numbers):
        """The same content, under other ids, in other capitals and spaces."""
        return csv_of(
            [f"x{i}", "t", *(s.upper().replace(" ", "  ") for s in story(i)[2:])] for i in numbers
        )

    @staticmethod
    def read(**paths):
        splits = stories.load_splits(DataConfig(**paths))
        return [*splits.train, *splits.validation], splits.test, splits.notes

    @staticmethod
    def name(one):
        return one.story_id, one.sentences[0].split()[1]


class Prompts:
    noun = "prompt"

    @staticmethod
    def rows(numbers):
        return "\n".join(f"It was {i} o'clock." for i in numbers)

    @staticmethod
    def respelled(numbers):
        return "\n".join(f"IT  was {i} O'Clock. " for i in numbers)

    @staticmethod
    def read(**paths):
        splits = load_prompts(PromptDataConfig(**paths))
        return splits.train, splits.held_out, splits.notes

    @staticmethod
    def name(one):
        return one.prompt_id, one.text.split()[2]


class Sentences:
    noun = "sentence"

    @staticmethod
    def rows(numbers):
        return "\n".join(json.dumps({"text": f"Film {i} is fun.", "label": i % 2}) for i in numbers)

    @staticmethod
    def respelled(numbers):
        return "\n".join(
            json.dumps({"text": f" film {i}\tis FUN.", "label": i % 2}) for i in numbers
        )

    @staticmethod
    def read(**paths):
        splits = load_sentences(SubjectivityDataConfig(**paths))
        return [*splits.pool, *splits.validation], splits.test, splits.notes

    @staticmethod
    def name(one):
        return one.sentence_id, one.text.split()[1]


class Sums:
    noun = "problem"

    @staticmethod
    def rows(numbers):
        problems = [parse(f"{i // 10} + {i % 10} - 3") for i in numbers]
        return json.dumps([{"str_query": p.question, "num_sol": p.solution} for p in problems])

    respelled = rows  # a question has one spelling

    @staticmethod
    def read(**paths):
        task = ArithmeticConfig(problems=8, held_out=1, eval_split="test")
        splits = files.load_splits(ArithmeticDataConfig(**paths), task)
        notes = [note for note in splits.notes if "demonstration" not in note]
        return splits.train, [p for part in splits.test.values() for p in part], tuple(notes)

    @staticmethod
    def name(one):
        return one.expression, str(10 * one.operands[0] + one.operands[1])


TASKS = [Stories, Prompts, Sentences, Sums]


@pytest.fixture(params=TASKS, ids=lambda task: task.noun)
def task(request):
    return request.param


def test_all_of_one_file_is_trained_on_and_all_of_the_other_is_tested_on(task, tmp_path):
    train = write(tmp_path / "train", task.rows(range(10, 18)))
    test = write(tmp_path / "test", task.rows(range(40, 49)))
    trained, tested, notes = task.read(path=train, test_path=test)
    assert sorted(task.name(one)[1] for one in trained) == [str(i) for i in range(10, 18)]
    assert [task.name(one)[1] for one in tested] == [str(i) for i in range(40, 49)]
    ids = [task.name(one)[0] for one in (*trained, *tested)]
    assert len(set(ids)) == len(ids)
    assert notes == ()


def test_what_stands_in_both_is_left_out_of_the_test_and_counted(task, tmp_path):
    train = write(tmp_path / "train", task.rows(range(10, 18)))
    test = write(tmp_path / "test", task.respelled(range(15, 25)))
    trained, tested, (note,) = task.read(path=train, test_path=test)
    assert len(trained) == 8
    assert [task.name(one)[1] for one in tested] == [str(i) for i in range(18, 25)]
    assert f"3 of 10 {task.noun.removesuffix('y')}" in note and "left out of the test data" in note


def test_a_test_of_which_nothing_is_left_is_refused(task, tmp_path):
    train = write(tmp_path / "train", task.rows(range(10, 18)))
    test = write(tmp_path / "test", task.respelled(range(12, 14)))
    with pytest.raises(UserError, match=rf"the test has 2 .*, and {NONE_LEFT}"):
        task.read(path=train, test_path=test)


def test_a_test_may_be_given_to_embedded_or_generated_data(task, tmp_path):
    test = write(tmp_path / "test", task.rows(range(40, 49)))
    trained, tested, notes = task.read(test_path=test)
    assert trained and len(tested) == 9 and notes == ()


def test_a_test_file_is_named_by_its_own_setting(task, tmp_path):
    with pytest.raises(UserError, match=r"--data\.test-path: cannot read .*none"):
        task.read(test_path=tmp_path / "none")


def test_a_story_under_two_ids_is_in_one_part_of_a_file(tmp_path):
    twins = [[f"s{i}", "", *story(0)[2:]] for i in range(60)]
    splits = stories.load_splits(DataConfig(path=write(tmp_path / "twins", csv_of(twins))))
    assert splits.train and not splits.validation and not splits.test
    assert [note.split(": ")[0].split(" in the ")[1] for note in splits.notes] == [
        "validation data are in other data of the run, too",
        "test data are in other data of the run, too",
    ]


def test_without_validation_all_of_a_small_file_may_be_labelled(tmp_path):
    """The ten labels of the paper's train.10.jsonl, none of which is put aside."""
    train = write(tmp_path / "train", Sentences.rows(range(10)))
    test = write(tmp_path / "test", Sentences.rows(range(50, 60)))
    data = SubjectivityDataConfig(path=train, test_path=test)
    assert len(load_sentences(data, validate=False).pool) == 10
    with_validation = load_sentences(data)
    assert len(with_validation.pool) + len(with_validation.validation) == 10
