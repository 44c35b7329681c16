"""The comparison: which runs it asks for, what it reads of them, and what stands on its pages."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from gfn_ray.cli import parse
from gfn_ray.comparison.cells import TRIAL_SEED, Cell, trials
from gfn_ray.comparison.command import comparison
from gfn_ray.comparison.config import ComparisonJob
from gfn_ray.comparison.coverage import Coverage
from gfn_ray.comparison.pages import markdown, page
from gfn_ray.comparison.results import chosen_rate, over_seeds, rows
from gfn_ray.comparison.runner import ABOUT, left, run_cell, undecided
from gfn_ray.comparison.sections import Axis, Method, Section, full, quick
from gfn_ray.errors import UserError
from gfn_ray.evaluation.exact import ExactComparison
from gfn_ray.shell import JOBS
from gfn_ray.tasks.random_number.targets import MODES, log_target

TV = Axis("total variation", "after.tv", "lower", "to the posterior")
COST = Axis("peak MiB", "peak_mib", "lower", "of all actors")
PLAIN = Method("no training", {"steps": "0"})
TRAINED = Method("GFlowNet", {}, "SubTB", rates=(1e-3, 3e-3))
SECTION = Section(
    "numbers", "Numbers", "Shared.", "random-number", {"steps": "4"}, (PLAIN, TRAINED), (TV, COST)
)


def finish(cell, root, tv, **more):
    """What a run of the cell leaves, as far as the comparison reads it."""
    directory = cell.directory(root)
    directory.mkdir(parents=True)
    summary = {"after": {"tv": tv}, "peak_mib": {"learner": 100.0, "sampler 0": 50.0}, **more}
    (directory / "summary.json").write_text(json.dumps(summary))
    about = {"command": "gfn-ray random-number", "commit": "abc", "seconds": 60.0}
    (directory / ABOUT).write_text(json.dumps(about))


def finished(root):
    """The whole section: the second rate is better on the trial's seed."""
    for cell, tv in zip(trials(SECTION, TRAINED), (0.3, 0.1), strict=True):
        finish(cell, root, tv)
    for number, cell in enumerate(left([SECTION], root)):
        finish(cell, root, 0.5 if cell.method is PLAIN else 0.1 + 0.01 * number)


@pytest.mark.parametrize("section", [*quick(), *full()], ids=lambda one: one.slug)
def test_every_cell_of_the_tables_has_settings_that_its_job_takes(section):
    settings = JOBS[section.job].settings()
    for method in section.methods:
        rate = method.rates[0] if method.rates else None
        parse(settings, Cell(section, method, 0, rate).words, "job")


def test_every_method_has_as_many_learning_rates_tried():
    for section in full():
        assert len({len(method.rates) for method in section.methods if method.rates}) == 1


def test_a_cell_of_other_settings_is_another_cell():
    cell = Cell(SECTION, TRAINED, 0, 1e-3)
    others = [
        Cell(SECTION, TRAINED, 1, 1e-3),
        Cell(SECTION, TRAINED, 0, 3e-3),
        Cell(replace(SECTION, flags={"steps": "5"}), TRAINED, 0, 1e-3),
    ]
    assert len({one.name for one in (cell, *others)}) == 4


def test_seeds_run_only_once_a_rate_is_decided_and_at_the_best_one(tmp_path):
    first, second = trials(SECTION, TRAINED)
    assert {first.seed, second.seed} == {TRIAL_SEED}
    waiting = list(left([SECTION], tmp_path))
    assert len(waiting) == len(SECTION.seeds) + 2 and waiting[-2:] == [first, second]
    assert len(waiting) + undecided([SECTION], tmp_path) == 8
    finish(first, tmp_path, tv=0.3)
    assert chosen_rate(SECTION, TRAINED, tmp_path) is None
    finish(second, tmp_path, tv=0.1)
    assert chosen_rate(SECTION, TRAINED, tmp_path) == second.rate
    rates = {cell.rate for cell in left([SECTION], tmp_path) if cell.method is TRAINED}
    assert rates == {second.rate}
    assert undecided([SECTION], tmp_path) == 0


def test_a_rate_whose_run_came_to_no_number_is_not_chosen(tmp_path):
    first, second = trials(SECTION, TRAINED)
    finish(first, tmp_path, tv=None)
    finish(second, tmp_path, tv=5.0)
    assert chosen_rate(SECTION, TRAINED, tmp_path) == second.rate


def test_nothing_is_left_of_a_finished_section_and_a_missing_run_is_named(tmp_path):
    with pytest.raises(UserError, match="a cell without a run, numbers/no-training-0"):
        rows(SECTION, tmp_path)
    finished(tmp_path)
    assert list(left([SECTION], tmp_path)) == []
    plain, trained = rows(SECTION, tmp_path)
    assert plain.values["total variation"].mean == 0.5
    assert trained.rate == 3e-3
    assert trained.values["peak MiB"].mean == 150.0


def test_an_interval_is_over_seeds_and_one_seed_has_none():
    three = over_seeds([0.1, 0.2, 0.3])
    assert three.mean == pytest.approx(0.2) and three.low < 0.1 and three.high > 0.3
    assert math.isnan(over_seeds([0.1]).low)
    assert over_seeds([]) is None


def test_the_pages_hold_every_row_and_mark_the_best(tmp_path):
    finished(tmp_path)
    found = [(SECTION, rows(SECTION, tmp_path))]
    lines = markdown(found, tmp_path).splitlines()
    (trained,) = [line for line in lines if line.startswith("| GFlowNet, SubTB")]
    (plain,) = [line for line in lines if line.startswith("| no training")]
    assert "**" in trained.split("|")[2] and "**" not in plain.split("|")[2]
    assert "[" in trained, "three seeds have an interval"
    text = page(found, {}, tmp_path)
    assert text.count("gfn-ray random-number") == 6
    assert "(lr 0.003)" in text and "<script" not in text
    assert "2 learning rates of each method were tried" in text


def test_a_page_without_trials_does_not_speak_of_any(tmp_path):
    section = replace(SECTION, methods=(PLAIN, replace(TRAINED, rates=(1e-3,))))
    for cell in left([section], tmp_path):
        finish(cell, tmp_path, 0.2)
    text = markdown([(section, rows(section, tmp_path))], tmp_path)
    assert "were tried" not in text and "The learning rates were not tuned." in text


def test_modes_that_a_policy_lost_are_counted(tmp_path):
    target = np.exp(log_target("modes", 0, 100))
    lost = np.where(np.arange(101) < 21, 0.0, target)
    whole = Coverage(np.arange(101.0), target, target, target)
    assert len(whole.modes) == MODES and whole.modes_covered == 1.0
    assert replace(whole, after=lost).modes_covered == pytest.approx(1 - 1 / MODES)


def test_distances_are_those_of_the_exact_comparison():
    rng = np.random.default_rng(0)
    target, after = rng.dirichlet(np.ones(20)), 0.9 * rng.dirichlet(np.ones(20))
    one = Coverage(np.arange(20.0), target, after, after)
    exact = ExactComparison(np.log(target), np.log(after))
    assert one.tv == pytest.approx(exact.tv)
    assert one.kl_p_q == pytest.approx(exact.kl_target_q)
    assert one.kl_q_p == pytest.approx(exact.kl_q_target)
    assert one.in_range == pytest.approx(exact.valid_mass)


def test_settings_that_a_job_refuses_end_the_comparison(tmp_path):
    cell = Cell(replace(SECTION, flags={"steps": "many"}), PLAIN, 0, None)
    cell = replace(cell, method=replace(PLAIN, flags={}))
    with pytest.raises(UserError, match=r"no-training-0-\w+: .*steps"):
        run_cell(cell, tmp_path, 60.0)


def test_an_unknown_section_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no section 'number'; it has modes"):
        comparison(ComparisonJob(sections=("number",), directory=tmp_path))
