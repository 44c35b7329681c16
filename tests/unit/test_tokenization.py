"""The tokens of a text in its place, by tokenizers that mark its beginning, its end, or neither."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from gfn_ray.config import DataConfig, EvalConfig
from gfn_ray.errors import UserError
from gfn_ray.models.tokenization import checked_continuation_ids, continuation_ids, text_ids
from gfn_ray.sampling.calculator import Calculator
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.tasks.catalog import BUILT_IN
from gfn_ray.tasks.infill.story_texts import story_texts
from gfn_ray.tasks.task import TaskData

BOS, EOS = "<|bos|>", "<|eos|>"
MARKS = {"neither": "$A", "bos": f"{BOS} $A", "eos": f"$A {EOS}", "both": f"{BOS} $A {EOS}"}


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


@pytest.fixture(scope="module", params=MARKS)
def marking(request, tiny_dir):
    """The tokenizer, and whether it puts a token before a text."""
    made = AutoTokenizer.from_pretrained(tiny_dir)
    special = [(mark, made.convert_tokens_to_ids(mark)) for mark in (BOS, EOS)]
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single=MARKS[request.param], special_tokens=special
    )
    return made, MARKS[request.param].startswith(BOS)


def test_a_text_and_its_continuation_are_the_tokens_of_both(tokenizer):
    left, text = "He went home", " and slept."
    parts = [*text_ids(tokenizer, left), *continuation_ids(tokenizer, left, text)]
    assert parts == text_ids(tokenizer, left + text).tolist()


def test_a_text_that_cannot_be_cut_off_is_refused_by_what_it_prevents(tokenizer):
    with pytest.raises(UserError, match=r"'ent home' .*, so a story cannot end; .* model\.name"):
        checked_continuation_ids(tokenizer, "He w", "ent home", "a story cannot end")


def test_what_a_tokenizer_puts_before_a_text_stays_and_what_it_appends_goes(tokenizer, marking):
    marked, begins = marking
    bare = text_ids(tokenizer, "He went home").tolist()
    before = [tokenizer.bos_token_id] if begins else []
    assert text_ids(marked, "He went home").tolist() == before + bare
    assert text_ids(marked, "").tolist() == before
    assert text_ids(marked, f"{BOS}He went home").tolist() == [tokenizer.bos_token_id, *bare]
    assert continuation_ids(marked, "He went", " home").tolist() == bare[-1:]


def beginnings(data: TaskData) -> Iterator[np.ndarray]:
    """Every text that a model reads from its beginning."""
    for query in (*data.train, *data.held_out):
        yield from (query.prompt_ids, query.context_ids)
    for one in data.labels.classifiers if data.labels else ():
        yield from one.contexts.values()
        yield from (ids for ids, _ in one.examples)


def insides(data: TaskData) -> Iterator[np.ndarray]:
    """Every text that stands after another."""
    for query in (*data.train, *data.held_out):
        yield from (query.answer_ids, *query.demonstrations)
    if data.labels:
        yield from data.labels.answers
        yield from (ids for one in data.labels.classifiers for ids in one.answers)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_beginning_is_marked_once_in_whatever_a_task_has_read_and_an_end_never(name, marking):
    tokenizer, begins = marking
    kind = BUILT_IN[name]()
    queries = 1 if name == "random_number" else 10
    data = kind(kind.job(eval=EvalConfig(queries=queries))).load(tokenizer, len(tokenizer))
    marks = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    for ids in beginnings(data):
        assert (ids[0] == tokenizer.bos_token_id) == begins
        assert not marks & set(ids[1:].tolist())
    scored = {tokenizer.eos_token_id} if name == "prompts" else set()  # the end of a completion
    for ids in insides(data):
        assert not (marks - scored) & set(ids.tolist())


def test_a_story_that_the_base_is_tuned_on_is_marked_likewise(marking):
    tokenizer, begins = marking
    for ids in story_texts(DataConfig(), tokenizer, None).validation:
        assert (ids[0] == tokenizer.bos_token_id) == begins
        assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(ids[1:].tolist())


def test_a_tool_answers_after_a_marked_prompt_as_after_any(tokenizer, marking):
    marked, _ = marking
    kind = BUILT_IN["arithmetic"]()
    support = kind(kind.job()).support(tokenizer, len(tokenizer))
    found = []
    for one in (tokenizer, marked):
        question, call = "Question: 3 + 4 = ? Answer:", " 3 + 4 ="
        z = continuation_ids(one, question, call)
        loop = ToolLoop(Calculator(), one, support)
        found.append(loop.answer_ids(text_ids(one, question), z).token_ids.tolist())
    assert found[0] == found[1]
