"""The comparison: which runs it asks for, what it reads of them, and what stands on its pages."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gfn_ray.cli import parse
from gfn_ray.comparison.cells import TRIAL_SEED, Cell, trials
from gfn_ray.comparison.command import comparison
from gfn_ray.comparison.config import ComparisonJob
from gfn_ray.comparison.coverage import Coverage
from gfn_ray.comparison.pages import markdown, page
from gfn_ray.comparison.records import Record, Records, record_of
from gfn_ray.comparison.results import Value, chosen_rate, is_level, rows
from gfn_ray.comparison.runner import left, run_cell, runs_left, seconds_left
from gfn_ray.comparison.section import Axis, Method, Section
from gfn_ray.comparison.tables.catalog import sections
from gfn_ray.comparison.words import lesson
from gfn_ray.errors import UserError
from gfn_ray.evaluation.exact import ExactComparison
from gfn_ray.runtime.preparing import prepare
from gfn_ray.shell import JOBS
from gfn_ray.tasks.catalog import CATALOG
from gfn_ray.tasks.random_number.targets import MODES, log_target

TV = Axis("total variation", ("after.tv",), "lower", "to the posterior")
COST = Axis("peak MiB", ("peak_mib",), "none", "of all actors")
BOUNDS = Axis("KL", ("after.low",), "none", "between bounds", "after.high")
PLAIN = Method("no training", {"steps": "0"}, baselines=("greedy",))
TRAINED = Method("GFlowNet", {}, "SubTB", rates=(1e-3, 3e-3))
SECTION = Section(
    "numbers",
    "Numbers",
    "Shared.",
    "random-number",
    {"steps": "4"},
    (PLAIN, TRAINED),
    (TV, COST, BOUNDS),
    ("total variation",),
    about_s=100.0,
)
SUMMARY = {
    "trajectories": 40,
    "wall_seconds": 50.0,
    "cpu_seconds": 80.0,
    "model": "smollm2-135m",
    "before": {"tv": 0.9},
    "peak_mib": {"learner": 100.0, "sampler 0": 50.0},
    "baselines": {"greedy": {"tv": 0.75}},
}


class Silent:
    def message(self, text):
        """What a run tells people."""


def finish(cell, records, tv, **after):
    """What a run of the cell leaves."""
    directory = records.directory.parent / cell.name
    directory.mkdir(parents=True)
    summary = {**SUMMARY, "after": {"tv": tv, **after}}
    (directory / "summary.json").write_text(json.dumps(summary))
    command = " ".join(["gfn-ray", *cell.words])
    records.add(cell, record_of(cell, directory, command, "abc", 60.0))


def finished(records):
    """The whole section: the second rate is better on the trial's seed."""
    for cell, tv in zip(trials(SECTION, TRAINED), (0.3, 0.1), strict=True):
        finish(cell, records, tv)
    for number, cell in enumerate(left(SECTION, records)):
        tv = 0.5 + number / 1000 if cell.method is PLAIN else 0.1 + number / 1000
        finish(cell, records, tv, low=1.0, high=2.0)


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path / "records")


def settings_of(cell, *more):
    return parse(JOBS[cell.section.job].settings(), [*cell.words, *more], "job")


@pytest.mark.parametrize(
    ("section", "method"),
    [(section, method) for section in sections("full") for method in section.methods],
    ids=lambda one: one.slug,
)
def test_every_method_of_the_tables_has_settings_that_fit_its_task(section, method, tiny_dir):
    """Parsed at every learning rate, and checked as a run checks it before Ray starts, with data,
    support and objective."""
    tiny = ["--model.name", str(tiny_dir), "--sampler.max-prompt-tokens", "360"]
    for rate in method.rates or (None,):
        config = settings_of(Cell(section, method, section.seeds[0], rate), *tiny)
    task = CATALOG[section.job.replace("-", "_")].task()(config)
    prepared = prepare(config, task, Silent())
    labels = prepared.data.labels
    known = [*prepared.data.decoders, *(labels.classifiers if labels else [])]
    names = {one.name for one in known}
    assert set(method.baselines) <= names
    wanted = [key for axis in section.axes for key in axis.keys if key.startswith("after.")]
    if method.name != "MLE" and method.form != "usual":
        assert {key.removeprefix("after.") for key in wanted} <= set(task.metrics)


@pytest.mark.parametrize("section", sections("full"), ids=lambda one: one.slug)
def test_a_section_decides_and_shows_by_its_own_axes(section):
    assert section.axes[0].better != "none"
    assert [section.axis(name).name for name in section.shown] == list(section.shown)
    assert len({method.slug for method in section.methods}) == len(section.methods)


def test_the_whole_table_takes_no_more_than_half_a_day(records):
    assert sum(seconds_left(section, records) for section in sections("full")) <= 12 * 3600


def test_every_method_has_as_many_learning_rates_tried():
    for section in sections("full"):
        assert len({len(method.rates) for method in section.methods if method.rates}) == 1


def test_a_cell_of_other_settings_is_another_cell():
    cell = Cell(SECTION, TRAINED, 0, 1e-3)
    others = [
        Cell(SECTION, TRAINED, 1, 1e-3),
        Cell(SECTION, TRAINED, 0, 3e-3),
        Cell(replace(SECTION, flags={"steps": "5"}), TRAINED, 0, 1e-3),
    ]
    assert len({one.name for one in (cell, *others)}) == 4


def test_seeds_run_only_once_a_rate_is_decided_and_at_the_best_one(records):
    first, second = trials(SECTION, TRAINED)
    assert {first.seed, second.seed} == {TRIAL_SEED}
    waiting = list(left(SECTION, records))
    assert len(waiting) == len(SECTION.seeds) + 2 and waiting[-2:] == [first, second]
    assert runs_left(SECTION, records) == 8
    finish(first, records, tv=0.3)
    assert chosen_rate(SECTION, TRAINED, records) is None
    finish(second, records, tv=0.1)
    assert chosen_rate(SECTION, TRAINED, records) == second.rate
    rates = {cell.rate for cell in left(SECTION, records) if cell.method is TRAINED}
    assert rates == {second.rate}
    assert runs_left(SECTION, records) == 6


def test_what_is_left_takes_as_long_as_finished_runs_took(records):
    assert seconds_left(SECTION, records) == 8 * SECTION.about_s
    finish(trials(SECTION, TRAINED)[0], records, tv=0.3)
    assert seconds_left(SECTION, records) == 7 * 60.0


def test_a_rate_whose_run_came_to_no_number_is_not_chosen(records):
    first, second = trials(SECTION, TRAINED)
    finish(first, records, tv=None)
    finish(second, records, tv=5.0)
    assert chosen_rate(SECTION, TRAINED, records) == second.rate


def test_nothing_is_left_of_a_finished_section_and_a_missing_record_is_named(records):
    with pytest.raises(UserError, match="a cell without a record, numbers/no-training-0"):
        rows(SECTION, records)
    finished(records)
    assert list(left(SECTION, records)) == []
    plain, greedy, trained = rows(SECTION, records)
    assert plain.values["total variation"].mean == pytest.approx(0.501)
    assert greedy.values["total variation"].mean == 0.75 and greedy.values["peak MiB"] is None
    assert trained.title == "GFlowNet, SubTB (lr 0.003)"
    assert trained.values["peak MiB"].mean == 150.0


def test_records_alone_make_the_same_pages(records):
    """In another clone, where no run's directory is."""
    finished(records)
    found = [(SECTION, rows(SECTION, records))]
    elsewhere = Records(records.directory)
    again = [(SECTION, rows(SECTION, elsewhere))]
    assert markdown(again) == markdown(found)
    assert list(left(SECTION, elsewhere)) == []


def test_a_record_holds_numbers_of_the_run_and_where_it_ran(records):
    (cell, _) = trials(SECTION, TRAINED)
    finish(cell, records, tv=0.123456789)
    record = Records(records.directory).of(cell)
    assert record.values["after.tv"] == 0.123457 and record.values["peak_mib"] == 150.0
    assert "model" not in record.values and "before.tv" not in record.values
    assert record.machine["cores"] >= 1 and record.date.startswith("20")


def test_records_of_two_processes_are_all_kept(records):
    first, second = trials(SECTION, TRAINED)
    other = Records(records.directory)
    assert first not in records and second not in other
    finish(first, records, tv=0.1)
    finish(second, other, tv=0.2)
    assert first in Records(records.directory) and second in Records(records.directory)


def test_a_line_that_is_no_record_is_named(records):
    (cell, _) = trials(SECTION, TRAINED)
    finish(cell, records, tv=0.1)
    file = records.directory / "numbers.jsonl"
    file.write_text(file.read_text() + "<<<<<<< mine\n")
    with pytest.raises(UserError, match=r"numbers.jsonl, line 2: expected the record of a run"):
        Records(records.directory).of(cell)


def value(*numbers):
    return Value(numbers, (), len(numbers))


def test_seeds_tell_two_methods_apart_or_do_not():
    assert is_level(value(0.1, 0.2, 0.3), value(0.15, 0.25, 0.3))
    assert not is_level(value(0.10, 0.11, 0.12), value(0.2, 0.21, 0.22))
    # Each within the other's own interval, and yet apart.
    one, other = value(0.10, 0.13, 0.16), value(0.18, 0.21, 0.24)
    assert one.interval.high > other.interval.low and not is_level(one, other)


def test_of_one_seed_nothing_is_known_but_its_number():
    assert math.isnan(value(0.1).interval.low)
    assert not is_level(value(0.1), value(0.10, 0.12, 0.14))
    assert is_level(value(0.1), value(0.1))


def test_the_pages_hold_every_row_and_mark_the_best(records):
    finished(records)
    found = [(SECTION, rows(SECTION, records))]
    lines = markdown(found).splitlines()
    (trained,) = [line for line in lines if line.startswith("| GFlowNet, SubTB")]
    (plain,) = [line for line in lines if line.startswith("| no training")]
    assert "**" in trained.split("|")[3] and "**" not in plain.split("|")[3]
    assert "[" in trained, "three seeds have an interval"
    assert "1.00 to 2.00" in trained
    text = page(found, {}, Path())
    assert text.count("<code>gfn-ray") == 8 and text.count("(trial)") == 2
    assert "(lr 0.003)" in text and "<script" not in text
    assert "2 learning rates of each method were tried" in text


def test_the_lesson_says_who_is_ahead_and_whom_seeds_do_not_tell_from_it(records):
    finished(records)
    told = lesson(SECTION, rows(SECTION, records))
    assert told == (
        "On total variation, **GFlowNet, SubTB (lr 0.003)** is ahead with 0.10; last is greedy "
        "with 0.75."
    )


def test_a_table_of_one_seed_and_no_trials_says_so(records):
    section = replace(SECTION, methods=(PLAIN, replace(TRAINED, rates=(1e-3,))), seeds=(0,))
    for cell in left(section, records):
        finish(cell, records, 0.2)
    text = markdown([(section, rows(section, records))])
    assert "were tried" not in text and "The learning rates were not tuned." in text
    assert "| GFlowNet, SubTB (lr 0.001) | 1 | **0.20** |" in text
    assert "of one seed" in text


def test_a_seed_without_a_number_is_not_hidden(records):
    section = replace(SECTION, methods=(PLAIN,))
    for number, cell in enumerate(left(section, records)):
        finish(cell, records, 0.2 if number else None)
    assert "2 of 3 seeds" in markdown([(section, rows(section, records))])


def test_modes_that_a_policy_lost_are_counted(tmp_path):
    target = np.exp(log_target("modes", 0, 100))
    lost = np.where(np.arange(101) < 21, 0.0, target)
    whole = Coverage(np.arange(101.0), target, target)
    assert len(whole.modes) == MODES and whole.modes_covered == 1.0
    assert replace(whole, after=lost).modes_covered == pytest.approx(1 - 1 / MODES)


def test_distances_are_those_of_the_exact_comparison():
    rng = np.random.default_rng(0)
    target, after = rng.dirichlet(np.ones(20)), 0.9 * rng.dirichlet(np.ones(20))
    one = Coverage(np.arange(20.0), target, after)
    exact = ExactComparison(np.log(target), np.log(after))
    assert one.tv == pytest.approx(exact.tv)
    assert one.kl_p_q == pytest.approx(exact.kl_target_q)
    assert one.kl_q_p == pytest.approx(exact.kl_q_target)
    assert one.in_range == pytest.approx(exact.valid_mass)


def test_settings_that_a_job_refuses_end_the_comparison(tmp_path, records):
    cell = Cell(replace(SECTION, flags={"steps": "many"}), PLAIN, 0, None)
    cell = replace(cell, method=replace(PLAIN, flags={}))
    with pytest.raises(UserError, match=r"no-training-0-\w+: .*steps"):
        run_cell(cell, tmp_path, records, 60.0)


def test_an_unknown_section_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no section 'number'; it has modes"):
        comparison(ComparisonJob(sections=("number",), directory=tmp_path))


def test_a_comparison_whose_reader_has_gone_makes_its_pages_in_silence(tmp_path):
    """As in `make comparison | head`."""
    (section,) = sections("quick")
    records = Records(tmp_path / "records")
    for cell in left(section, records):
        known = np.full(101, 1 / 101)
        distribution = Coverage(np.arange(101.0), known, known)
        columns = {name: list(each) for name, each in distribution.columns().items()}
        values = {f"coverage.{name}": n for name, n in distribution.measures().items()}
        records.add(
            cell,
            Record(cell.name, "", "", 1.0, "", {"cpu": "", "cores": 2}, values, columns),
        )
    command = [sys.executable, "-m", "gfn_ray", "comparison", "--only-pages"]
    places = ["--records", str(records.directory), "--directory", str(tmp_path / "runs")]
    process = subprocess.Popen([*command, *places], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait(60) == 0 and errors == ""
    assert (tmp_path / "runs" / "quick" / "index.html").exists()
    assert (tmp_path / "runs" / "quick" / "modes-coverage.png").exists()
