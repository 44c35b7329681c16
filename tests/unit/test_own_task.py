"""docs/own-task.md and its example: what is shown is what runs."""

import ast
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from gfn_ray.errors import UserError
from gfn_ray.tasks.task import TaskData, check_data, check_positions

DOCS = Path(__file__).resolve().parents[2] / "docs"
EXAMPLE = DOCS / "examples" / "haiku.py"
NO_TOKENS = np.zeros(0, dtype=np.int32)
SEA = "waves break on the stones / a gull calls once and is gone / salt dries on my hands"


@pytest.fixture(scope="module")
def haiku():
    sys.path.insert(0, str(EXAMPLE.parent))
    import haiku

    yield haiku
    sys.path.remove(str(EXAMPLE.parent))


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


@pytest.fixture(scope="module")
def data(haiku, tokenizer):
    return haiku.HaikuTask(haiku.HaikuJob()).load(tokenizer, len(tokenizer))


def test_the_page_quotes_the_whole_example():
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "own-task.md").read_text(), re.DOTALL)
    assert EXAMPLE.read_text() in blocks


def test_the_example_is_under_sixty_lines_of_code():
    text = EXAMPLE.read_text()
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, node.end_lineno + 1)
    }
    code = [
        n for n, line in enumerate(text.splitlines(), 1) if line.strip() and n not in docstrings
    ]
    assert len(code) < 60


def test_syllables_off_counts_over_three_lines(haiku):
    assert haiku.syllables_off(SEA) == 0
    assert haiku.syllables_off("") == 17
    assert haiku.syllables_off(SEA + " / more") == 1


def test_the_examples_data_can_carry_a_run(haiku, data, tokenizer):
    check_data("haiku", data, haiku.HaikuJob().sampler, len(tokenizer))
    assert not data.support.contains(tokenizer("Rain", add_special_tokens=False)["input_ids"])
    assert data.support.contains(
        tokenizer(" rain/ and rain", add_special_tokens=False)["input_ids"]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": []}, "no training queries"),
        ({"held_out": []}, "no held-out queries"),
        ({"twice": True}, "two training queries the id 'rain'"),
        ({"vocab_size": 7}, "logits 7"),
        ({"room": 3}, "sampler.max_prompt_tokens allows 3"),
        ({"prompt_ids": NO_TOKENS}, "'rain' an empty prompt"),
        ({"held_out": "other"}, "'rain' to a training and to another held-out query"),
    ],
)
def test_data_that_cannot_carry_a_run_are_refused(haiku, data, tokenizer, changes, message):
    train = changes.get("train", data.train) * (1 + changes.get("twice", False))
    held_out = changes.get("held_out", data.held_out)
    if "prompt_ids" in changes:
        train = [replace(train[0], prompt_ids=changes["prompt_ids"])]
    if held_out == "other":
        held_out = [replace(data.held_out[0], query_id=train[0].query_id)]
    sampler = haiku.HaikuJob().sampler.model_copy(
        update={"max_prompt_tokens": changes.get("room", 500)}
    )
    wrong = TaskData(train, held_out, data.support, data.reward)
    with pytest.raises(UserError, match=message):
        check_data("haiku", wrong, sampler, changes.get("vocab_size", len(tokenizer)))


def test_a_query_may_be_trained_on_and_held_out_alike(haiku, data, tokenizer):
    twin = replace(data.train[0], texts=dict(data.train[0].texts))
    both = TaskData(data.train, [twin], data.support, data.reward)
    check_data("haiku", both, haiku.HaikuJob().sampler, len(tokenizer))


def test_a_query_that_the_model_cannot_read_with_the_longest_z_is_refused(haiku, data):
    engine = haiku.HaikuJob().sampler.model_copy(update={"max_prompt_tokens": 100})
    longest = 100 + data.support.max_len + 1
    check_positions(data, engine, None)
    with pytest.raises(UserError, match=rf"max_prompt_tokens \(100\).* reads {longest - 1};"):
        check_positions(data, engine, longest - 1)

    tight = engine.model_copy(update={"max_prompt_tokens": 1})
    needed = [len(q.context_ids) + data.support.max_len + 1 for q in (*data.train, *data.held_out)]
    check_positions(data, tight, max(needed))
    with pytest.raises(UserError, match=rf"query '.*' .* is {max(needed)} tokens .* reads"):
        check_positions(data, tight, max(needed) - 1)


def test_a_task_without_queries_of_ones_own_says_so(haiku):
    class Closed(haiku.BaseTask):
        name, job, load = "closed", haiku.HaikuJob, haiku.HaikuTask.load

    with pytest.raises(UserError, match=r"Closed has no query\(fields, tokenizer\)"):
        Closed(haiku.HaikuJob()).query({}, None)


def test_metrics_of_the_example_are_those_it_lists(haiku):
    task = haiku.HaikuTask(haiku.HaikuJob())
    assert list(task.metrics)[:2] == ["exact", "off"]
    assert np.isfinite(task.log_weight(None, SEA))
