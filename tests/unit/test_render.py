"""The page of figures says what was recorded, and cannot go stale."""

import json
from dataclasses import asdict

import pytest

from measure import Figure, Growth, exponent, figure, growth
from render import BEGIN, DOCS, END, GOALS, NOTHING, kept, read, rendered, tables

HERE = {"machine": "a machine", "commit": "abc1234", "date": "2026-11-27"}
STEP = Figure(
    name="step", unit="s", runs=5, spread=(14.0, 19.5), ours=2.0, other=34.0, ratio=17.0, **HERE
)
POWER = Growth(
    name="growth, step, K",
    unit="s",
    runs=5,
    spread=(0.8, 0.9),
    exponent=0.85,
    points=[(4, 0.5), (64, 5.25)],
    **HERE,
)


def lines(*records):
    return "".join(json.dumps(asdict(one)) + "\n" for one in records)


def test_the_committed_page_equals_a_fresh_rendering():
    page = DOCS.read_text()
    assert rendered(page, kept()) == page


def test_every_kept_record_names_its_machine_commit_and_date():
    for one in kept():
        assert one.machine and one.commit and one.date and one.runs >= 1


def test_what_was_recorded_is_read_back():
    found = read(lines(STEP, POWER))
    assert [lines(one) for one in found] == [lines(STEP), lines(POWER)]


@pytest.mark.parametrize("record", [STEP, POWER])
@pytest.mark.parametrize("field", ["name", "unit", "runs", "spread", "machine", "commit", "date"])
def test_a_record_without_a_field_is_refused(record, field):
    raw = asdict(record)
    del raw[field]
    with pytest.raises(ValueError, match=rf"line 1.*{field}"):
        read(json.dumps(raw))


def test_a_record_with_a_field_too_many_is_refused():
    with pytest.raises(ValueError, match=r"line 1.*extra"):
        read(json.dumps(asdict(STEP) | {"extra": 1}))


def test_a_row_shows_the_figure_its_goal_and_where_it_is_from():
    shown = tables([STEP])
    assert shown.startswith("On a machine:")
    row = "| step | 2.00 s | 34.0 s | 17.0x (14.0 to 19.5) | 5 | ≥ 15x | 2026-11-27 | abc1234 |"
    assert row in shown.splitlines()


def test_a_power_has_a_table_of_its_own():
    row = "| growth, step, K | 0.85 (0.80 to 0.90) | 0.50 s at 4, 5.25 s at 64 | 5 |"
    assert row in tables([STEP, POWER])


def test_only_the_newest_record_of_a_name_is_shown():
    newer = Figure(**asdict(STEP) | {"ratio": 16.25})
    assert tables([STEP, newer]) == tables([newer])


def test_each_machine_is_described_once_above_what_it_measured():
    elsewhere = Figure(**asdict(STEP) | {"name": "reward", "machine": "another"})
    shown = tables([STEP, POWER, elsewhere])
    assert shown.count("On a machine:") == shown.count("On another:") == 1
    assert shown.index("growth") < shown.index("On another:") < shown.index("| reward |")


def test_rendering_leaves_the_rest_of_the_page_as_it_is():
    page = f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    assert rendered(page, []) == f"above\n{BEGIN}\n{NOTHING}\n{END}\nbelow\n"
    with pytest.raises(ValueError, match="figures"):
        rendered("a page without markers", [])


def test_every_goal_is_of_a_figure_that_is_measured():
    from bench import figures

    assert GOALS.keys() <= figures(rounds=1, quick=True).keys()


def test_a_ratio_is_the_median_of_the_rounds():
    found = figure("f", [1.0, 2.0, 4.0], [10.0, 10.0, 10.0], [10.0, 5.0, 2.5], "s")
    assert (found.ours, found.other, found.ratio) == (2.0, 10.0, 5.0)
    assert (found.spread, found.runs) == ((2.5, 10.0), 3)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_its_power(power):
    sizes = [1.0, 4.0, 16.0, 100.0]
    assert exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)
    found = growth("g", {n: (lambda n=n: n**power) for n in sizes}, rounds=2, unit="s")
    assert found.exponent == pytest.approx(power)
    assert [x for x, _ in found.points] == sizes
