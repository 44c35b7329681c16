"""STaR's plan: who judges a z, and what a hint changes; and where likelihood updates begin anew."""

import numpy as np
import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer

from gfn_ray.errors import UserError
from gfn_ray.tasks.arithmetic.config import ArithmeticConfig, ArithmeticJob
from gfn_ray.tasks.arithmetic.task import ArithmeticTask

SMALL = {"demonstrations": 6, "problems": 10, "held_out": 4, "reward_shots": 2}


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


def loaded(tokenizer, task=SMALL, **settings):
    changed = {"steps": 0, "star": {"rounds": 2}, "eval": {"queries": 8}, **settings}
    config = ArithmeticJob(task=ArithmeticConfig(**task), **changed)
    return ArithmeticTask(config).load(tokenizer, len(tokenizer))


def test_without_rounds_there_is_no_plan(tokenizer):
    assert loaded(tokenizer, steps=3, star={"rounds": 0}).star is None


def test_a_chain_is_right_if_it_ends_at_the_answer(tokenizer):
    data = loaded(tokenizer)
    for query in data.train:
        assert data.star.is_right(query, query.texts["reference"])
        assert not data.star.is_right(query, query.texts["reference"] + "1")
        assert not data.star.is_right(query, " 1 + 1 =")
    assert not data.star.hinted


def test_a_hint_is_the_answer_before_the_question_and_changes_nothing_else(tokenizer):
    data = loaded(tokenizer, star={"rounds": 1, "rationalise": True})
    assert data.star.hinted.keys() == {query.query_id for query in data.train}
    for query in data.train:
        hinted = data.star.hinted[query.query_id]
        shown, plain = (tokenizer.decode(one.prompt_ids) for one in (hinted, query))
        assert f"The answer is {query.texts['solution']}. Question: {query.query_id}" in shown
        assert f"The answer is {query.texts['solution']}. Question" not in plain
        assert np.array_equal(hinted.context_ids, query.context_ids)
        assert hinted.query_id == query.query_id


def test_a_prompt_that_its_hint_makes_too_long_is_refused(tokenizer):
    task = {**SMALL, "held_out": 8, "train_operands": (3,), "eval_operands": (3,)}
    data = loaded(tokenizer, task)
    longest = max(len(query.prompt_ids) for query in (*data.train, *data.held_out))
    with pytest.raises(UserError, match="the prompt of problem with its answer"):
        loaded(
            tokenizer,
            task,
            star={"rounds": 1, "rationalise": True},
            sampler={"max_prompt_tokens": longest + 2, "queries_per_call": 8},
        )


def test_rounds_come_in_place_of_updates():
    with pytest.raises(ValidationError, match=r"star\.rounds \(1\).* steps is 5"):
        ArithmeticJob(steps=5, star={"rounds": 1})
