"""Texts that are too long: refused by the name of the first, or left out and counted.

Through each task that reads data, up to where a run would start.
"""

from __future__ import annotations

import csv
import io
import json

import pytest
from transformers import AutoTokenizer

from gfn_ray.cli import parse
from gfn_ray.data.stories import ROC_COLUMNS, load_stories
from gfn_ray.errors import UserError
from gfn_ray.tasks.arithmetic.config import ArithmeticJob
from gfn_ray.tasks.arithmetic.task import ArithmeticTask
from gfn_ray.tasks.continuation.config import ContinuationJob
from gfn_ray.tasks.continuation.task import ContinuationTask
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tasks.infill.task import InfillTask
from gfn_ray.tasks.length_limit import LengthLimit
from gfn_ray.tasks.subjectivity.config import SubjectivityJob
from gfn_ray.tasks.subjectivity.task import SubjectivityTask

LONG = "very " * 600


def of_stories(long):
    stories = load_stories(InfillJob().data)
    text = io.StringIO()
    csv.writer(text).writerows(
        [
            ROC_COLUMNS,
            *(
                [s.story_id, "", LONG * (i in long) + s.sentences[0], *s.sentences[1:]]
                for i, s in enumerate(stories)
            ),
        ]
    )
    return text.getvalue()


def of_prompts(long):
    return "\n".join(f"It was {i} o'clock. {LONG * (i in long)}" for i in range(300))


def of_sentences(long):
    rows = [{"text": f"Film {i} is{LONG * (i in long)} fun.", "label": i % 2} for i in range(300)]
    return "\n".join(map(json.dumps, rows))


TASKS = {
    "story": (InfillJob, InfillTask, of_stories),
    "text": (ContinuationJob, ContinuationTask, of_prompts),
    "sentence": (SubjectivityJob, SubjectivityTask, of_sentences),
}


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


@pytest.fixture
def load(tokenizer, tmp_path):
    """What a job does with a file in which these rows are too long; 450 tokens are not."""

    def load(noun, long, *flags):
        job, make, write = TASKS[noun]
        (tmp_path / "data").write_text(write(long))
        room = ["--sampler.max-prompt-tokens", "450"]
        argv = ["--data.path", str(tmp_path / "data"), *room, *flags]
        return make(parse(job, argv)).load(tokenizer, len(tokenizer))

    return load


def ids(data):
    return [one.query_id for one in (*data.train, *data.held_out)]


@pytest.mark.parametrize("noun", TASKS)
def test_one_text_that_is_too_long_is_refused_or_left_out(noun, load):
    plain = load(noun, ())
    assert plain.notes == ()
    # Every third: of each part some, and of a hundred rows that are drawn from as well.
    long = range(0, 300, 3)
    with pytest.raises(UserError, match=r"max_prompt_tokens allows 450; .*--data\.too-long skip"):
        load(noun, long)
    data = load(noun, long, "--data.too-long", "skip")
    assert all(len(one.prompt_ids) <= 450 for one in (*data.train, *data.held_out))
    assert len(data.held_out) == len(plain.held_out)
    (note,) = data.notes
    assert "left out because the prompt of each has more tokens than" in note
    assert "sampler.max_prompt_tokens allows, 450; the longest has" in note
    assert int(note.split()[0]) > 10 and note.split()[1].startswith(noun.removesuffix("y"))


@pytest.mark.parametrize("noun", TASKS)
def test_to_skip_changes_nothing_where_nothing_is_too_long(noun, load):
    assert ids(load(noun, (), "--data.too-long", "skip")) == ids(load(noun, ()))


@pytest.mark.parametrize("noun", TASKS)
def test_where_nothing_is_left_the_refusal_says_what_was_left_out(noun, load):
    with pytest.raises(
        UserError, match=r"has 0; lower it.* left out because the prompt of each has"
    ):
        load(noun, range(300), "--data.too-long", "skip")


def test_a_problem_that_is_too_long_is_left_out_of_its_number_of_operands(tokenizer):
    """Six operands take more tokens than three to five; all the queries are asked of those."""
    lengths = ["--task.eval-operands", "3,6", "--eval.queries", "8", "--task.problems", "20"]
    plain = ArithmeticTask(parse(ArithmeticJob, lengths)).load(tokenizer, len(tokenizer))
    by_operands = {}
    for one in (*plain.train, *plain.held_out):
        by_operands.setdefault(one.texts["operands"], []).append(len(one.prompt_ids))
    limit = max(by_operands["3"] + by_operands["4"])
    assert limit < min(by_operands["6"])
    room = [*lengths, "--sampler.max-prompt-tokens", str(limit)]
    with pytest.raises(UserError, match=r"the prompt of problem '.*' has .*--data\.too-long skip"):
        ArithmeticTask(parse(ArithmeticJob, room)).load(tokenizer, len(tokenizer))
    skipping = parse(ArithmeticJob, [*room, "--data.too-long", "skip"])
    data = ArithmeticTask(skipping).load(tokenizer, len(tokenizer))
    assert [one.texts["operands"] for one in data.held_out] == ["3"] * 8
    assert "problems left out because the prompt of each has more tokens" in data.notes[-1]


def test_a_text_is_counted_once_and_a_limit_may_be_none():
    room = LengthLimit("story", 5, "the model of model.name reads", "skip")
    assert [room.takes(name, n) for name, n in (("a", 5), ("b", 6), ("b", 6), ("c", 9))] == [
        True,
        False,
        False,
        False,
    ]
    assert room.notes == (
        "2 stories left out because each has more tokens than the model of model.name reads, 5; "
        "the longest has 9",
    )
    assert LengthLimit("story", None, "", "refuse").takes("a", 10**9)
