"""Problems of arithmetic: right by Python's own sums, never in two splits, read back from files."""

import json
import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gfn_ray.data.arithmetic import Problem, Splits, generate, load_demonstrations, parse
from gfn_ray.errors import UserError

SIGNS = {"+": operator.add, "-": operator.sub}
SIZES = {
    "problems": 300,
    "train_operands": (3, 4),
    "held_out": 40,
    "held_out_operands": (3, 4, 5, 8),
    "largest_operand": 9,
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


def test_a_larger_split_begins_with_the_smaller_one():
    small, large = (generate(0, demonstrations=10, **{**SIZES, "held_out": n}) for n in (20, 40))
    for part in ("validation", "test"):
        for count in SIZES["held_out_operands"]:
            assert getattr(large, part)[count][:20] == getattr(small, part)[count]


@given(st.integers(0, 50), st.integers(0, 50), st.sampled_from([(3, 4), (3,), (2, 5)]))
@settings(max_examples=10)
def test_a_run_is_not_trained_on_what_another_run_is_tested_on(one, other, operands):
    """Whatever the seeds and numbers of operands of the two."""
    sizes = {**SIZES, "problems": 60, "held_out": 20, "held_out_operands": operands}
    trained = generate(one, demonstrations=20, **{**sizes, "train_operands": operands})
    tested = generate(other, demonstrations=20, **sizes)
    for held_out in (tested.validation, tested.test):
        questions = {problem for part in held_out.values() for problem in part}
        assert questions.isdisjoint(trained.train + trained.demonstrations)


def test_splits_that_share_a_question_cannot_be_made():
    problem = Problem((1, 2), ("+",))
    with pytest.raises(ValueError, match="stands in the splits twice"):
        Splits([], [problem], {2: []}, {2: [problem]})


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
    with pytest.raises(UserError, match=r"no 500 train questions of 2 operands up to 9; lower"):
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
        ([ROW, "x"], r"a\.json, row 2: expected an object with str_query"),
        ([{"str_query": "x"}], r"a\.json, row 1: num_sol is missing"),
        ([ROW, {**ROW, "num_sol": 3}], r"a\.json, row 2, num_sol: got 3; expected '2'"),
        ([{**ROW, "str_rationale": "6 - 0 =, 6 + 4 ="}], r"row 1, str_rationale: .* '6 - 0 =, 6 -"),
        (
            [{**ROW, "str_rationale": "6 - 0 = 7, 6 - 4 = 2"}],
            "row 1, str_rationale: got '6 - 0 = 7",
        ),
        (
            [{**ROW, "str_query": "Question: 6 * 2 = ? Answer:"}],
            "row 1, str_query: .* expected one",
        ),
        ([ROW, ROW], "row 2, str_query: the question of row 1 again"),
    ],
)
def test_a_wrong_file_is_named_with_its_row(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        load_demonstrations(write(tmp_path / "a.json", content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*gone\.json"):
        load_demonstrations(tmp_path / "gone.json")


@pytest.mark.parametrize("text", ["", "3", "3 +", "3 + 4 -", "3 +- 4", "3 * 4", "3 + x", "3+4"])
def test_what_is_no_sum_is_refused(text):
    with pytest.raises(ValueError, match="is no sum of integers"):
        parse(text)
