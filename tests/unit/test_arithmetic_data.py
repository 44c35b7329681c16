"""Problems of arithmetic: right by Python's own sums, never in two splits, read back from files."""

import json
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.data.arithmetic import Problem, generate, load_demonstrations, parse
from gfn_ray.errors import UserError

SIGNS = {"+": operator.add, "-": operator.sub}
SIZES = {
    "problems": 300,
    "train_operands": (3, 4),
    "held_out": 40,
    "held_out_operands": (3, 4, 5, 8),
}


@st.composite
def problems(draw):
    operands = draw(st.lists(st.integers(0, 9), min_size=2, max_size=8))
    signs = draw(
        st.lists(st.sampled_from("+-"), min_size=len(operands) - 1, max_size=len(operands) - 1)
    )
    return Problem(tuple(operands), tuple(signs))


@given(problems())
def test_each_step_is_right_and_the_last_one_is_the_answer(problem):
    value = problem.operands[0]
    steps = problem.rationale.split(",")
    for step, sign, operand in zip(steps, problem.signs, problem.operands[1:], strict=True):
        expected = SIGNS[sign](value, operand)
        assert step == f" {value} {sign} {operand} = {expected}"
        value = expected
    assert problem.answer == f". The answer is {value}."
    assert parse(problem.expression) == problem


def all_questions(splits):
    parts = [
        splits.demonstrations,
        splits.train,
        *splits.validation.values(),
        *splits.test.values(),
    ]
    return [problem.question for part in parts for problem in part]


@pytest.mark.parametrize("seed", range(3))
def test_no_question_stands_in_two_splits(seed):
    questions = all_questions(generate(seed, demonstrations=50, **SIZES))
    assert len(questions) == len(set(questions)) == 50 + 300 + 2 * 4 * 40


def test_held_out_problems_do_not_depend_on_the_size_of_training():
    small, large = (
        generate(0, demonstrations=n, **{**SIZES, "problems": 10 * n}) for n in (10, 50)
    )
    assert (small.validation, small.test) == (large.validation, large.test)
    assert large.demonstrations[:10] == small.demonstrations


def test_training_has_the_operands_it_should():
    splits = generate(0, demonstrations=20, **SIZES)
    assert {len(p.operands) for p in splits.demonstrations + splits.train} == {3, 4}
    assert all(len(p.operands) == n for n, part in splits.test.items() for p in part)


def test_given_demonstrations_are_kept_out_of_the_other_splits():
    given_ones = generate(7, demonstrations=30, **SIZES).demonstrations
    splits = generate(0, demonstrations=given_ones, **SIZES)
    assert splits.demonstrations == given_ones
    assert len(set(all_questions(splits))) == 30 + 300 + 2 * 4 * 40


def test_more_questions_than_there_are_is_the_users_mistake():
    with pytest.raises(UserError, match=r"no more questions of 2 operands; lower task\.problems"):
        generate(0, demonstrations=0, **{**SIZES, "train_operands": (2,), "problems": 500})


ROW = {
    "str_query": "Question: 6 - 0 - 4 = ? Answer:",
    "num_sol": 2,
    "str_rationale": "6 - 0 =, 6 - 4 =",
    "str_sol": ". The answer is 2.",
}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("rationale", ["6 - 0 =, 6 - 4 =", "6 - 0 = 6, 6 - 4 = 2"])
def test_a_file_is_read_with_or_without_the_values_of_its_steps(tmp_path, rationale):
    file = write(tmp_path / "a.json", [{**ROW, "str_rationale": rationale}])
    assert load_demonstrations(file) == [Problem((6, 0, 4), ("-", "-"))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ([], "holds no list of problems"),
        ([{"str_query": "x"}], "row 0 of .* lacks one of"),
        ([ROW, {**ROW, "num_sol": 3}], "row 1 of .* has num_sol 3; expected '2'"),
        ([{**ROW, "str_rationale": "6 - 0 =, 6 + 4 ="}], "row 0 .* has str_rationale"),
        ([{**ROW, "str_query": "Question: 6 * 2 = ? Answer:"}], "row 0 .* asks 'Question: 6 "),
    ],
)
def test_a_wrong_file_is_named_with_its_row(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        load_demonstrations(write(tmp_path / "a.json", content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*gone\.json"):
        load_demonstrations(tmp_path / "gone.json")
