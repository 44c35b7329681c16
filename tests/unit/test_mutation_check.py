"""The deliberate bugs of `make mutants` still fit the code, and its verdicts are strict."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load_script():
    spec = importlib.util.spec_from_file_location(
        "mutation_check", ROOT / "scripts" / "mutation_check.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


script = load_script()
each_mutation = pytest.mark.parametrize("mutation", script.MUTATIONS, ids=lambda m: m.name)


@each_mutation
def test_the_text_that_a_bug_replaces_stands_there_once_and_changes(mutation):
    source = (ROOT / mutation.file).read_text()
    assert source.count(mutation.old) == 1
    assert mutation.applied_to(source) != source


@each_mutation
def test_a_bug_is_still_python(mutation):
    compile(mutation.applied_to((ROOT / mutation.file).read_text()), mutation.file, "exec")


@each_mutation
def test_the_tests_that_should_notice_a_bug_exist(mutation):
    assert mutation.tests and all((ROOT / test).is_file() for test in mutation.tests)


def test_a_bug_whose_text_is_gone_is_named_with_its_file():
    mutation = replace(script.MUTATIONS[0], old="no such text")
    with pytest.raises(script.CannotRun, match=r"found it 0 times: 'no such text'; update"):
        mutation.applied_to("x = 1")


def report(inside):
    case = f'<testcase classname="tests.unit.test_x" name="test_y">{inside}</testcase>'
    return f"<testsuites><testsuite>{case}</testsuite></testsuites>"


@pytest.mark.parametrize(
    "message", ["assert 1 == 2", "AssertionError: too far off", "Failed: DID NOT RAISE ValueError"]
)
def test_a_failed_assertion_kills(message):
    outcome = script.read_outcome(1, report(f'<failure message="{message}"/>'))
    assert outcome.killed
    assert str(outcome) == "killed by tests/unit/test_x.py::test_y"


@pytest.mark.parametrize(
    ("status", "inside"),
    [
        (0, ""),
        (1, '<failure message="KeyError: 3"/>'),
        (1, '<failure message="Failed: Timeout (&gt;600.0s) from pytest-timeout."/>'),
        (1, '<failure message="[XPASS(strict)] known"/>'),
        (1, '<error message="assert in a fixture"/>'),
        (2, '<error message="collection failure"/>'),
    ],
)
def test_whatever_else_happens_the_bug_survived(status, inside):
    outcome = script.read_outcome(status, report(inside))
    assert not outcome.killed
    assert str(outcome).startswith("SURVIVED")


def test_a_run_without_a_single_test_kills_nothing():
    assert not script.read_outcome(5, "<testsuites/>").killed
