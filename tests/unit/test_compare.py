"""Paired comparisons of runs: the bootstrap against what must hold, and what is refused."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gfn_ray.cli import parse
from gfn_ray.config import CompareJob
from gfn_ray.errors import UserError
from gfn_ray.evaluation.compare import Run, compare, paired_bootstrap
from gfn_ray.runs.compare_runs import compare_runs, read_run
from gfn_ray.runs.run_dir import RunDir
from testing.refusals import refusal

VALUES = arrays(np.float64, st.integers(2, 12), elements=st.floats(-100, 100))


def run(name, **metrics):
    """A run whose metrics after training are lists over queries, and 0 before it."""
    ids = [f"q{i}" for i in range(len(next(iter(metrics.values()))))]
    after = {q: {m: v[i] for m, v in metrics.items()} for i, q in enumerate(ids)}
    return Run(name, {q: dict.fromkeys(metrics, 0.0) for q in ids}, after)


@given(VALUES)
def test_equal_runs_differ_by_nothing(values):
    one = paired_bootstrap(values, values, 200, 0)
    assert (one.mean, one.low, one.high) == (0, 0, 0)
    assert not one.is_clear


@given(VALUES, st.floats(0.5, 50))
def test_a_constant_shift_is_found_with_an_interval_of_no_width(values, shift):
    one = paired_bootstrap(values + shift, values, 200, 0)
    assert (one.mean, one.low, one.high) == pytest.approx((shift,) * 3)
    assert one.is_clear


@given(VALUES, st.randoms(use_true_random=False))
def test_the_order_of_queries_does_not_matter(values, random):
    other = np.sin(values)
    order = random.sample(range(len(values)), len(values))
    assert paired_bootstrap(values, other, 200, 3) == paired_bootstrap(
        values[order], other[order], 200, 3
    )


def test_the_interval_is_that_of_a_mean_of_as_many_draws():
    rng = np.random.default_rng(0)
    values = rng.normal(1.0, 2.0, 400)
    one = paired_bootstrap(values, np.zeros(400), 10_000, 0)
    half_width = 1.96 * values.std() / 400**0.5
    assert one.high - one.mean == pytest.approx(half_width, rel=0.05)
    assert one.mean - one.low == pytest.approx(half_width, rel=0.05)


def test_many_resamples_take_the_numbers_of_one_draw_and_no_more_memory_than_a_few():
    values = np.random.default_rng(0).normal(0.2, 2.0, 501)
    tracemalloc.start()
    one = paired_bootstrap(values, np.zeros(501), 10_000, 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    drawn = np.random.default_rng(3).integers(501, size=(10_000, 501), dtype=np.int32)
    means = np.sort(values)[drawn].mean(axis=1)
    assert (one.low, one.high) == tuple(np.percentile(means, [2.5, 97.5]))
    assert peak < drawn.nbytes


def test_more_resamples_than_memory_and_time_allow_are_refused(tmp_path, capsys):
    argv = ["--runs", str(tmp_path), "--resamples", "10000000000"]
    ask = lambda: parse(CompareJob, argv)  # noqa: E731
    refusal(ask, tmp_path, capsys, "--resamples got 10000000000", "at most 1,000,000")


def test_runs_are_paired_by_query_whatever_order_they_were_written_in():
    first = run("a", x=[1.0, 2.0, 4.0])
    backward = Run("b", first.before, dict(reversed(first.after.items())))
    (row,) = compare([first, backward], 200, 0)
    assert row.means == [pytest.approx(7 / 3)] * 2
    assert row.differences[1].high == 0


def test_a_metric_counts_on_the_queries_that_have_it_in_every_run():
    first, second = run("a", x=[1.0, 2.0], y=[1.0, 1.0]), run("b", x=[1.0, 2.0], z=[0.0, 0.0])
    del second.after["q1"]["x"]
    (row,) = compare([first, second], 200, 0)
    assert (row.metric, row.queries, row.means) == ("x", 1, [1.0, 1.0])


def test_runs_on_other_queries_are_refused_by_their_names():
    with pytest.raises(UserError, match=r"2 queries only in b \(q2, q3\)"):
        compare([run("a", x=[1.0, 2.0]), run("b", x=[1.0, 2.0, 3.0, 4.0])], 200, 0)


def test_one_query_is_too_few():
    with pytest.raises(UserError, match=r"a has 1 held-out query.*eval\.queries"):
        compare([run("a", x=[1.0])], 200, 0)


def write(path, shift=0.0):
    """A run directory of three queries with one metric and one diagnostic each."""
    path.mkdir()
    directory = RunDir(path)
    for phase, base in (("before", 0.0), ("during", 99.0), ("after", 1.0 + shift)):
        row = {"step": 1, "phase": phase}
        ids = ["q0", "q1", "q2"]
        directory.append_queries(
            [{**row, "query_id": q, "bert_score": base + i} for i, q in enumerate(ids)]
        )
        directory.append_diagnostics(
            [{**row, "query_id": q, "samples": 8, "ess": 3.0, "elbo": base} for q in ids]
        )
    return path


def test_a_run_directory_is_read_by_phase_with_the_diagnostics_that_average(tmp_path):
    found = read_run(RunDir(write(tmp_path / "a")))
    assert found.before["q2"] == {"elbo": 0.0, "bert_score": 2.0}
    assert found.after["q2"] == {"elbo": 1.0, "bert_score": 3.0}


def test_a_metric_that_is_a_whole_number_counts_as_any_other(tmp_path):
    directory = RunDir(write(tmp_path / "a"))
    directory.append_queries(
        {"step": 1, "phase": "after", "query_id": q, "lines": lines}
        for q, lines in (("q0", 3), ("q1", 2.5))
    )
    after = read_run(directory).after
    assert (after["q0"]["lines"], after["q1"]["lines"]) == (3, 2.5)


def test_the_table_names_runs_means_and_differences(tmp_path, capsys):
    runs = (write(tmp_path / "a", shift=0.5), write(tmp_path / "b"))
    assert compare_runs(CompareJob(runs=runs)) == 0
    out = capsys.readouterr().out
    assert f"A  {runs[0]}" in out and f"B  {runs[1]}" in out
    assert "log_z_gap and ess_fraction depend on eval.samples" in out
    (line,) = [line for line in out.splitlines() if "bert_score" in line]
    cells = [cell.strip() for cell in line.strip("| ").split("|")]
    assert cells[:5] == ["bert_score", "3", "1.00", "2.50", "2.00"]
    assert cells[5:] == ["+1.50 [+1.50, +1.50]*", "+0.50 [+0.50, +0.50]*"]


def draws(path, log_q, densities=(-1.5, -2.5, -3.5)):
    """Exact draws of a run's simulated queries, whose log q after training is given."""
    directory = RunDir(path)
    for phase, shift in (("before", -1.0), ("after", 0.0)):
        directory.append_simulated(
            {"step": 1, "phase": phase, "query_id": f"s{i}", "log_density": density}
            | {"log_pf_posterior": log_q + shift + i}
            for i, density in enumerate(densities)
        )
    return path


def test_runs_are_compared_on_the_exact_draws_that_they_share(tmp_path, capsys):
    one = draws(write(tmp_path / "a"), -10.0)
    other = draws(write(tmp_path / "b"), -12.0, densities=(-1.5, -2.5, -9.0))
    assert compare_runs(CompareJob(runs=(one, other))) == 0
    out = capsys.readouterr().out
    assert "simulated queries" in out and "log_density" not in out
    (line,) = [line for line in out.splitlines() if line.startswith("| log_pf_posterior")]
    cells = [cell.strip() for cell in line.strip("| ").split("|")]
    assert cells[1] == "2"  # the third draw is another one
    assert cells[-1] == "+2.00 [+2.00, +2.00]*"


def test_runs_without_shared_draws_are_compared_on_the_datas_queries_alone(tmp_path, capsys):
    one = draws(write(tmp_path / "a"), -10.0)
    others = (write(tmp_path / "b"), draws(write(tmp_path / "c"), 1.0, densities=(-7, -8, -9)))
    for other in others:
        assert compare_runs(CompareJob(runs=(one, other))) == 0
        out = capsys.readouterr().out
        assert "bert_score" in out and "simulated" not in out


def test_an_unfinished_run_and_no_run_at_all_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        read_run(RunDir(tmp_path / "none"))
    directory = RunDir(write(tmp_path / "a"))
    kept = [r for r in map(json.loads, directory.queries_file.open()) if r["phase"] != "after"]
    directory.queries_file.unlink()
    directory.diagnostics_file.write_text("")
    directory.append_queries(kept)
    with pytest.raises(UserError, match="no evaluation after training"):
        read_run(directory)
