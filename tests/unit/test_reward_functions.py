"""Reward functions: built in, a user's file in its process, and objects from Python."""

import os
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.errors import UserError
from gfn_ray.rewards.functions.builtin import BUILT_IN
from gfn_ray.rewards.functions.given import GivenFunction
from gfn_ray.rewards.functions.judge import Judge, Row
from gfn_ray.rewards.functions.numbers import final_number
from gfn_ray.rewards.functions.process import FunctionProcess

ROWS = [
    Row("p.jsonl, line 1", "Two?", {"answer": "2"}),
    Row("p.jsonl, line 2", "Three?", {"answer": "3"}),
]

MODULE = """
import os, sys, threading
from beside import DIGITS

print("a user's module may print")

def length(completions, **kwargs):
    return [float(len(text)) for text in completions]

def right(prompts, completions, answer, **kwargs):
    print("and so may its functions")
    return [float(text == wanted) for text, wanted in zip(completions, answer)]

def of_messages(prompts, completions, completion_ids, **kwargs):
    return [len(p) + len(c) + len(i) for p, c, i in zip(prompts, completions, completion_ids)]

def few(completions):
    return [0.5] * len(completions)

async def later(completions, **kwargs):
    return [1.0 for _ in completions]

def fails_on_three(completions, answer, **kwargs):
    return [1.0 / (int(wanted) - 3) for wanted in answer]

def too_few(completions, **kwargs):
    return [1.0]

def infinite(completions, **kwargs):
    return [float("inf")] * len(completions)

def hangs(completions, **kwargs):
    threading.Event().wait()

def dies(completions, **kwargs):
    os._exit(7)

def dies_once(completions, answer, **kwargs):
    if not os.path.exists("died"):
        open("died", "w").close()
        os._exit(7)
    return [float(one) for one in answer]

def pid(completions, **kwargs):
    return [float(os.getpid())] * len(completions)

def wants(completions, difficulty, **kwargs):
    return [1.0] * len(completions)

NUMBER = 3
"""


@pytest.fixture
def of_file(tmp_path, monkeypatch):
    """A function of a user's file, in its process."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.py").write_text("DIGITS = '0123456789'\n")
    file = tmp_path / "my_rewards.py"
    file.write_text(MODULE)
    started = []

    def make(name, timeout_s=60.0, file=file):
        started.append(FunctionProcess(f"{file}:{name}", ["answer"], timeout_s))
        return started[-1]

    yield make
    for process in started:
        process.close()


def judged(*functions, weights=None, texts=("2", "33"), rows=ROWS):
    weights = weights or [1.0] * len(functions)
    return Judge(functions, weights)(rows, texts, [[1]] * len(rows))


def rewards(*functions, **more):
    found = judged(*functions, **more)
    assert [one.fault for one in found] == [None] * len(found)
    return [one.reward for one in found]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("length", [1, 2]), ("right", [1, 0]), ("few", [0.5, 0.5]), ("later", [1, 1])],
    ids=["of-completions", "of-a-column", "without-kwargs", "async"],
)
def test_a_function_with_trls_signature_runs_as_it_is(of_file, name, expected):
    assert rewards(of_file(name)) == expected


def test_a_chat_goes_to_the_function_as_messages(of_file):
    chat = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Two?"}]
    row = Row("row 1", chat, {"answer": "2"})
    assert rewards(of_file("of_messages"), texts=["2"], rows=[row]) == [2 + 1 + 1]


def test_it_runs_in_another_process_that_lasts(of_file):
    function = of_file("pid")
    first, second = rewards(function), rewards(function)
    assert first == second != [os.getpid()] * 2


def test_what_one_row_raises_is_that_rows_fault_alone(of_file):
    two, three = judged(of_file("fails_on_three"))
    assert two.reward == -1.0 and two.fault is None
    assert "failed on p.jsonl, line 2: ZeroDivisionError" in three.fault


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("infinite", "it gave the reward inf"), ("dies", r"ended its process \(exit code 7\)")],
)
def test_what_gives_no_number_is_every_rows_fault(of_file, name, complaint):
    assert all(re.search(complaint, one.fault) for one in judged(of_file(name)))


def test_a_batch_that_takes_too_long_is_a_fault_and_its_process_is_gone(of_file):
    function = of_file("hangs", timeout_s=2.0)
    function.start()
    process = function._process
    assert "task.reward_timeout_s (2 s)" in judged(function)[0].fault
    assert process.poll() is not None


def test_the_process_starts_anew_for_the_next_batch(of_file):
    function = of_file("dies_once")
    assert all("exit code 7" in one.fault for one in judged(function))
    assert rewards(function) == [2, 3]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("absent", "cannot be imported: AttributeError"),
        ("NUMBER", "NUMBER is no function but int"),
        ("wants", "takes difficulty, and the columns of the data beside the prompt are answer"),
    ],
)
def test_what_cannot_be_called_is_refused_before_anything_runs(of_file, name, complaint):
    with pytest.raises(UserError, match=complaint):
        of_file(name).start()


def test_a_file_that_is_not_there_or_raises_is_refused(of_file, tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        of_file("length", file=tmp_path / "other.py").start()
    (tmp_path / "bad.py").write_text("raise SystemExit('no')\n")
    with pytest.raises(UserError, match="cannot be imported: SystemExit: no"):
        of_file("length", file=tmp_path / "bad.py").start()


def test_a_module_is_found_by_its_dotted_name(tmp_path, monkeypatch):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "mine.py").write_text(
        "def one(completions, **_):\n    return [1.0] * len(completions)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    function = FunctionProcess("pack.mine:one", ["answer"], 60.0)
    assert rewards(function) == [1.0, 1.0]
    function.close()


def test_several_functions_are_summed_by_weight_and_none_is_left_out():
    one = GivenFunction(lambda completions, **_: [1.0, None], 60.0)
    other = GivenFunction(lambda completions, **_: [10.0, 20.0], 60.0)
    assert rewards(one, other, weights=[2.0, 0.5]) == [7.0, 10.0]


def test_a_row_that_no_function_applies_to_has_no_reward():
    _, second = judged(GivenFunction(lambda completions, **_: [1.0, None], 60.0))
    assert second.fault == "every reward function gave None for p.jsonl, line 2"


def test_an_object_that_takes_too_long_is_stopped_even_where_it_catches_all():
    def stubborn(completions, **kwargs):
        while True:
            try:
                while True:
                    pass
            except Exception:
                continue

    assert "task.reward_timeout_s (0.2 s)" in judged(GivenFunction(stubborn, 0.2))[0].fault


# Built in


@pytest.mark.parametrize(
    ("name", "text", "columns", "expected"),
    [
        ("exact", " Two  words\n", {"answer": "two words"}, 1),
        ("exact", "two", {"answer": "two words"}, 0),
        ("regex", "It is 12.", {"pattern": r"\b\d+\.$"}, 1),
        ("regex", "It is.", {"pattern": r"\b\d+\.$"}, 0),
        ("contains", "A Dog ran.", {"words": "dog, cat"}, 0.5),
        ("contains", "The hotdog.", {"words": ["dog"]}, 0),
        ("contains_all", "A Dog ran.", {"words": "dog, cat"}, 0),
        ("contains_all", "A Dog ran from a cat.", {"words": "dog, cat"}, 1),
        ("math", r"so \boxed{\frac{3}{4}}", {"answer": "#### 0.75"}, 1),
        ("math", "no number", {"answer": "3"}, 0),
        ("json", '{"a": 1}', {}, 1),
        ("json", '{"a": 1', {}, 0),
        ("json", 'Here:\n```json\n{"a": 1}\n```', {"schema": '{"required": ["a"]}'}, 1),
        ("json", '{"b": 1}', {"schema": {"required": ["a"]}}, 0),
        ("json", "NaN", {}, 0),
    ],
)
def test_what_is_built_in_judges_by_its_columns(name, text, columns, expected):
    row = Row("row 1", "?", columns)
    assert rewards(BUILT_IN[name], texts=[text], rows=[row]) == [expected]


@pytest.mark.parametrize(
    ("name", "columns", "complaint"),
    [
        ("regex", {"pattern": "("}, "no regular expression"),
        ("contains", {"words": " , "}, "a list of words"),
        ("math", {"answer": "none"}, "holds no number"),
        ("json", {"schema": {"type": "nonsense"}}, "no JSON schema"),
        ("json", {"schema": "{"}, "no JSON schema"),
    ],
)
def test_cells_that_nothing_can_be_judged_by_are_refused(name, columns, complaint):
    with pytest.raises(ValueError, match=complaint):
        BUILT_IN[name].check(columns)


def test_a_schema_that_refers_elsewhere_is_not_fetched():
    """Its reference is refused, as one that leads nowhere."""
    row = Row("row 1", "?", {"schema": {"$ref": "http://127.0.0.1:9/schema.json"}})
    (one,) = judged(BUILT_IN["json"], texts=["{}"], rows=[row])
    assert "Unresolvable" in one.fault


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She has 3 apples and 4 pears.", 4),
        ("5 + 6 = 11\n#### 1,234.50", Fraction("1234.5")),
        (r"\boxed{-\frac{1}{2}} and not 7", Fraction(-1, 2)),
        (r"\boxed{x_{1} = 12}", 12),
        ("It costs $18.", 18),
        ("The answer is 3/4", Fraction(3, 4)),
        ("from 5-3 we get", 3),
        ("it is -3", -3),
        ("1/0", None),
        ("nothing", None),
        ("9" * 200, None),
    ],
)
def test_the_number_that_a_text_ends_in(text, expected):
    assert final_number(text) == expected


@given(st.integers(-(10**9), 10**9), st.integers(0, 999))
def test_a_number_with_thousands_separators_is_read_back_exactly(whole, thousandths):
    value = abs(whole) + Fraction(thousandths, 1000)
    sign = "-" if whole < 0 else ""
    assert final_number(f"so {sign}{abs(whole):,}.{thousandths:03}") == (-value if sign else value)
