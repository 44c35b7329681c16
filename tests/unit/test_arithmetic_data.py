"""Problems of arithmetic: right by Python's own sums, never in two splits, read back from files."""

import json
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.data.columns import Columns
from gfn_ray.errors import UserError
from gfn_ray.tasks.arithmetic.config import ArithmeticConfig, ArithmeticDataConfig
from gfn_ray.tasks.arithmetic.data import Problem, Splits, generate, parse
from gfn_ray.tasks.arithmetic.files import load_splits, read_problems
from testing.examples import examples

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
@examples(10)
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
    with pytest.raises(ValueError, match="occurs twice in the splits"):
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


def read(path):
    return read_problems(path, "--data.path", Columns({}))


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("rationale", ["6 - 0 =, 6 - 4 =", "6 - 0 = 6, 6 - 4 = 2"])
def test_a_file_is_read_with_or_without_the_values_of_its_steps(tmp_path, rationale):
    file = write(tmp_path / "a.json", [{**ROW, "str_rationale": rationale}])
    found = read(file)
    assert found.demonstrations == found.all == [Problem((6, 0, 4), ("-", "-"))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ([], "is not a list of problems"),
        ([ROW, "x"], r"a\.json, row 2: expected an object with str_query"),
        (
            [{"str_query": "x", "solution": 2}],
            r"a\.json, row 1: missing key num_sol; found str_query, solution; --data\.columns",
        ),
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
    ],
)
def test_a_wrong_file_is_named_with_its_row(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read(write(tmp_path / "a.json", content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*gone\.json"):
        read(tmp_path / "gone.json")


@pytest.mark.parametrize("text", ["", "3", "3 +", "3 + 4 -", "3 +- 4", "3 * 4", "3 + x", "3+4"])
def test_what_is_no_sum_is_refused(text):
    with pytest.raises(ValueError, match="is not a sum of integers"):
        parse(text)


SOLVED = {**ROW, "str_rationale": "6 - 0 =, 6 - 4 ="}
ANSWERED = {"str_query": "Question: 1 + 2 + 3 = ? Answer:", "num_sol": 6}
ASKED = [{"str_query": f"Question: 5 + {i} - 1 = ? Answer:", "num_sol": 4 + i} for i in range(4)]


class TestTheFilesOfThePaper:
    """Rows as its release has them: some with a rationale, some with an answer, some with a number
    alone, and some twice."""

    @staticmethod
    def splits(tmp_path, rows, test=None, **settings):
        paths = {"path": write(tmp_path / "train.json", rows)}
        if test is not None:
            paths["test_path"] = write(tmp_path / "test.json", test)
        task = ArithmeticConfig(
            **{
                "demonstrations": 5,
                "problems": 20,
                "held_out": 30,
                "eval_split": "test",
                **settings,
            }
        )
        return load_splits(ArithmeticDataConfig(**paths), task)

    def test_rows_without_a_rationale_are_problems_with_or_without_the_text_of_the_answer(
        self, tmp_path
    ):
        answered = {**ANSWERED, "str_sol": ". The answer is 6."}
        blank = {**ANSWERED, "str_query": "Question: 9 - 9 + 1 = ? Answer:", "num_sol": 1}
        blank |= {"str_rationale": None, "str_sol": None}
        found = read(write(tmp_path / "a.json", [answered, SOLVED, *ASKED, blank]))
        assert [p.expression for p in found.demonstrations] == ["6 - 0 - 4"]
        assert [p.expression for p in found.problems] == [
            "1 + 2 + 3",
            *(f"5 + {i} - 1" for i in range(4)),
            "9 - 9 + 1",
        ]

    def test_what_there_is_may_still_not_contradict_itself(self, tmp_path):
        with pytest.raises(
            UserError, match=r"row 1, str_sol: got '\. The answer is 7\.'; expected"
        ):
            read(write(tmp_path / "a.json", [{**ANSWERED, "str_sol": ". The answer is 7."}]))

    def test_a_question_that_comes_again_counts_once_and_as_a_demonstration_if_it_ever_is(
        self, tmp_path
    ):
        again = {key: ROW[key] for key in ("str_query", "num_sol")}
        found = read(write(tmp_path / "a.json", [again, SOLVED, again, *ASKED[:1]]))
        assert len(found.demonstrations) == len(found.problems) == 1
        assert found.notes == (
            f"2 rows of {tmp_path}/a.json left out because an earlier one has the same question",
        )

    def test_given_problems_are_trained_on_and_nothing_else_asks_what_they_do(self, tmp_path):
        given_ones = generate(3, demonstrations=0, **{**SIZES, "problems": 20}).train
        rows = [{"str_query": p.question, "num_sol": p.solution} for p in given_ones]
        splits = self.splits(tmp_path, rows)
        assert splits.train == given_ones and len(splits.demonstrations) == 5
        assert len(set(all_questions(splits))) == 5 + 20 + 2 * 4 * 30
        assert splits.notes == (
            f"{tmp_path}/train.json has no str_rationale: the 5 demonstrations of this run are "
            "generated",
        )

    def test_a_given_test_is_all_that_is_tested_on_and_nothing_is_trained_on_it(self, tmp_path):
        """Its first rows are the demonstrations, as in the paper's release; some come twice."""
        everything = generate(0, demonstrations=5, **{**SIZES, "problems": 200})
        solved = [
            {"str_query": p.question, "num_sol": p.solution, "str_rationale": p.rationale}
            for p in everything.demonstrations
        ]
        asked = [*everything.demonstrations, *everything.train[:100], *everything.train[:4]]
        rows = [{"str_query": p.question, "num_sol": p.solution} for p in asked]
        splits = self.splits(tmp_path, solved, rows, problems=200)
        tested = {p for part in splits.test.values() for p in part}
        assert tested == set(everything.train[:100])
        assert tested.isdisjoint(splits.train) and len(splits.train) == 200
        assert list(splits.test) == [3, 4]
        repeated, left_out = splits.notes
        assert repeated.startswith("4 rows of ") and left_out.startswith("5 of 105 problems")

    def test_demonstrations_that_a_smaller_run_leaves_out_are_no_test_of_it(self, tmp_path):
        rows = [SOLVED, {**ANSWERED, "str_rationale": "1 + 2 =, 3 + 3 ="}]
        test = [{"str_query": r["str_query"], "num_sol": r["num_sol"]} for r in rows] + ASKED
        splits = self.splits(tmp_path, rows, test, demonstrations=1, shots=0, reward_shots=0)
        assert len(splits.test[3]) == 4

    def test_other_numbers_of_operands_than_asked_for_are_left_out_of_a_test(self, tmp_path):
        longer = {"str_query": "Question: 1 + 1 + 1 + 1 = ? Answer:", "num_sol": 4}
        rows = [SOLVED]
        settings = {"demonstrations": 1, "shots": 0, "reward_shots": 0, "eval_operands": (3,)}
        splits = self.splits(tmp_path, rows, [*ASKED, longer], **settings)
        assert list(splits.test) == [3] and "1 problem of " in splits.notes[-1]
        with pytest.raises(UserError, match=r"no problem with as many operands as .* \(3\)"):
            self.splits(tmp_path, rows, [longer], **settings)

    def test_a_test_that_is_not_looked_at_is_said_to_be_kept_for_later(self, tmp_path):
        settings = {"demonstrations": 1, "shots": 0, "reward_shots": 0}
        splits = self.splits(tmp_path, [SOLVED], ASKED, eval_split="validation", **settings)
        assert "--task.eval-split test evaluates on them" in splits.notes[-1]
        held_out = {p for part in splits.validation.values() for p in part}
        assert held_out.isdisjoint(p for part in splits.test.values() for p in part)
