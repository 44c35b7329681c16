"""Cores divided among actors: in proportion to what they need, all of them, at least one each."""

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gfn_ray.cli import parse
from gfn_ray.runtime.resources.threads import FEWEST_CORES, ThreadPlan, divide
from gfn_ray.settings_values import dump_toml
from gfn_ray.tasks.infill.config import InfillJob

SAMPLERS = ("sampler 0",)
NAMES = (*SAMPLERS, "reward actor 0", "the learner")
needs = st.lists(st.floats(0, 1e6), min_size=1, max_size=8)
cores = st.integers(1, 256)


def plan(number, in_turn=False, learner="auto"):
    settings = {**dict.fromkeys(NAMES, "auto"), "the learner": learner}
    machines = dict.fromkeys(NAMES, "m")
    return ThreadPlan(settings, SAMPLERS, machines, {"m": number}, in_turn=in_turn)


def numbers(of):
    return [of.of(name) for name in NAMES]


@given(cores, needs)
def test_all_cores_are_given_out_and_everybody_gets_one(number, wanted):
    found = divide(number, wanted)
    assert sum(found) == max(number, len(wanted))
    assert min(found) >= 1


@given(cores, needs)
def test_who_needs_more_gets_no_less(number, wanted):
    found = sorted(zip(wanted, divide(number, wanted), strict=True))
    for (need, given_), (more, got) in pairwise(found):
        assert got >= given_ or need == more


@given(cores, needs)
def test_nobody_is_a_whole_core_off_the_share_that_no_floor_lifts(number, wanted):
    shares = [need * number / sum(wanted) if sum(wanted) else 0 for need in wanted]
    assume(min(shares) >= 1)
    for share, got in zip(shares, divide(number, wanted), strict=True):
        assert abs(got - share) < 1 + 1e-9 * number


@pytest.mark.parametrize(
    ("number", "wanted", "found"),
    [
        (8, [6.0, 1.0, 1.0], [6, 1, 1]),
        (8, [0.0, 0.0, 0.0], [3, 3, 2]),
        (8, [100.0, 0.1, 50.0], [5, 1, 2]),
        (16, [1.0, 1.0, 2.0], [4, 4, 8]),
        (2, [9.0, 1.0, 1.0], [1, 1, 1]),
    ],
)
def test_known_divisions(number, wanted, found):
    assert divide(number, wanted) == found


@pytest.mark.parametrize("number", range(1, FEWEST_CORES))
def test_few_cores_are_not_divided(number):
    few = plan(number)
    assert numbers(few) == [1, 1, 1]
    assert not few.undivided


@given(st.integers(FEWEST_CORES, 256))
def test_a_run_begins_with_all_cores_and_the_sampler_with_what_the_others_leave(number):
    begun = plan(number)
    assert numbers(begun) == [number - 2, 1, 1]
    assert begun.undivided


@given(st.integers(FEWEST_CORES, 256))
def test_a_synchronous_run_keeps_even_numbers(number):
    even = plan(number, in_turn=True)
    assert numbers(even) == [number // 3] * 3
    assert not even.undivided, "numbers that were measured would make two runs differ"


def test_what_is_measured_decides_and_only_once():
    measured = plan(8)
    used = dict(zip(NAMES, (6.0, 1.0, 1.0), strict=True))
    measured.share_out(used, dict.fromkeys(NAMES, "m"))
    assert numbers(measured) == [6, 1, 1]
    assert not measured.undivided


@given(st.integers(FEWEST_CORES, 64), st.integers(1, 64), st.tuples(*[st.floats(0, 100)] * 3))
def test_a_number_that_was_asked_for_stays_and_the_others_share_the_rest(number, asked, used):
    fixed = plan(number, learner=asked)
    first = numbers(fixed)
    fixed.share_out(dict(zip(NAMES, used, strict=True)), dict.fromkeys(NAMES, "m"))
    for found in (first, numbers(fixed)):
        assert found[2] == asked
        assert sum(found) <= max(number, asked + 2)


@pytest.mark.parametrize("number", [1, 2, 8])
def test_an_actor_that_works_alone_has_all_cores_until_the_others_work_again(number):
    of = plan(number)
    before = numbers(of)
    of.leave_to("the learner")
    assert numbers(of) == [*before[:2], number]
    of.leave_to(None)
    assert numbers(of) == before


def test_an_actor_that_works_alone_keeps_the_number_that_was_asked_for():
    of = plan(8, learner=3)
    of.leave_to("the learner")
    assert of.of("the learner") == 3


def test_each_machine_divides_its_own_cores():
    settings = dict.fromkeys(NAMES, "auto")
    machines = dict(zip(NAMES, "abb", strict=True))
    apart = ThreadPlan(settings, SAMPLERS, machines, {"a": 16, "b": 8}, in_turn=False)
    assert numbers(apart) == [16, 4, 4]
    apart.share_out(dict(zip(NAMES, (9.0, 1.0, 3.0), strict=True)), machines)
    assert numbers(apart) == [16, 2, 6]
    apart.leave_to("the learner")
    assert numbers(apart) == [16, 2, 8]


def test_an_actor_with_few_cores_to_itself_has_them_all():
    settings = dict.fromkeys(NAMES, "auto")
    machines = dict(zip(NAMES, "abc", strict=True))
    apart = ThreadPlan(settings, SAMPLERS, machines, {"a": 2, "b": 1, "c": 3}, in_turn=False)
    assert numbers(apart) == [2, 1, 3]
    assert not apart.undivided


def test_a_head_that_runs_no_actor_takes_no_core_from_the_others():
    """As on Kubernetes, whose head is given 0 CPUs."""
    settings, cores = dict.fromkeys(NAMES, "auto"), {"head": 0, "worker": 32}
    plan = ThreadPlan(settings, SAMPLERS, dict.fromkeys(NAMES, "worker"), cores, in_turn=False)
    assert numbers(plan) == [30, 1, 1]


def test_threads_are_auto_or_a_number_in_flags_and_files(tmp_path, capsys):
    assert parse(InfillJob, []).sampler.threads == "auto"
    config = parse(InfillJob, ["--sampler.threads", "3", "--reward.threads", "auto"])
    assert (config.sampler.threads, config.reward.threads) == (3, "auto")
    file = tmp_path / "run.toml"
    file.write_text(dump_toml(config))
    assert parse(InfillJob, ["--config", str(file)]) == config
    for wrong in ("0", "many", "2.5"):
        with pytest.raises(SystemExit):
            parse(InfillJob, ["--learner.threads", wrong])
        error = capsys.readouterr().err
        assert error.startswith("error: --learner.threads got ")
        assert error.endswith("it takes a whole number, at least 1, or auto\n")
