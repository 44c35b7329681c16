"""Compares runs on the same held-out queries: means, and intervals of their differences.

Pairs by query, bootstraps, and makes the table; the caller provides the numbers. The interval is
over queries, as if they were drawn again: it says nothing about other training seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich import box
from rich.table import Table

from gfn_ray.errors import UserError
from gfn_ray.formatting import DOTS, count, number

Array = npt.NDArray[np.float64]
PerQuery = Mapping[str, Mapping[str, float]]
"""Metrics of each query, by its id."""

COVERAGE = 95.0
NAMES_SHOWN = 3
DRAWN_AT_ONCE = 2**20  # resampled queries in memory at once, at 12 bytes each


@dataclass(frozen=True)
class Run:
    """One finished run: its name, and its held-out queries before and after training. simulated:
    the same of its exact draws, by query and draw; None if it has none."""

    name: str
    before: PerQuery
    after: PerQuery
    simulated: Run | None = None


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences, with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Row:
    """One metric over the queries that have it in all runs.

    untrained: the first run's mean before training. means: each run's mean after it. differences:
    the first run minus untrained, then minus each other run.
    """

    metric: str
    queries: int
    untrained: float
    means: list[float]
    differences: list[Difference]


def paired_bootstrap(first: Array, second: Array, resamples: int, seed: int) -> Difference:
    """Bootstraps first - second, both [N] over the same queries, resampling queries.

    The percentile interval of Efron and Tibshirani 1993, chapter 13. The order of the queries
    does not matter.
    """
    differences = np.sort(np.asarray(first, np.float64) - np.asarray(second, np.float64))
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    # The generator draws the same numbers in blocks as all at once.
    block = max(1, DRAWN_AT_ONCE // len(differences))
    for start in range(0, resamples, block):
        part = means[start : start + block]
        drawn = rng.integers(len(differences), size=(len(part), len(differences)), dtype=np.int32)
        part[:] = differences[drawn].mean(axis=1)
    tail = (100 - COVERAGE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return Difference(float(differences.mean()), float(low), float(high))


def compare(runs: Sequence[Run], resamples: int, seed: int) -> list[Row]:
    """Compares every metric that all runs share, in the first run's order.

    Raises UserError unless the runs were measured on the same two or more queries.
    """
    first = runs[0]
    for run in runs:
        if run.after.keys() != first.after.keys():
            raise UserError(_how_queries_differ(first, run))
    if len(first.after) < 2:
        raise UserError(
            f"{first.name} has {count(len(first.after), 'held-out query')}, too few for an "
            "interval; raise eval.queries"
        )
    sides = [first.before, *(run.after for run in runs)]
    rows = []
    for metric in dict.fromkeys(name for one in first.after.values() for name in one):
        shared = [q for q in sorted(first.after) if all(metric in s.get(q, {}) for s in sides)]
        if not shared:
            continue
        untrained, judged, *others = (np.array([side[q][metric] for q in shared]) for side in sides)
        rows.append(
            Row(
                metric,
                len(shared),
                float(untrained.mean()),
                [float(values.mean()) for values in (judged, *others)],
                [
                    paired_bootstrap(judged, other, resamples, seed)
                    for other in (untrained, *others)
                ],
            )
        )
    return rows


def compare_simulated(runs: Sequence[Run], resamples: int, seed: int) -> list[Row]:
    """Compares the runs on the exact draws that all of them share; empty for fewer than two.

    A difference in log_pf_posterior, log q of z*, is KL(p || q) of the second less that of the
    first if their targets agree: the posterior's entropy cancels, and no reward is needed.
    """
    sides = [run.simulated for run in runs if run.simulated is not None]
    if len(sides) < len(runs):
        return []
    shared = [q for q in sides[0].after if all(q in one.after and q in one.before for one in sides)]
    if len(shared) < 2:
        return []
    cut = [
        Run(one.name, {q: one.before[q] for q in shared}, {q: one.after[q] for q in shared})
        for one in sides
    ]
    return compare(cut, resamples, seed)


def comparison_table(rows: Sequence[Row], runs: int) -> Table:
    """Returns the rows as a Markdown table; runs are lettered A, B, ... in their order."""
    letters = [chr(ord("A") + index) for index in range(runs)]
    table = Table(box=box.MARKDOWN, safe_box=True)
    table.add_column("metric", no_wrap=True)
    headings = ["n", "untrained", *letters, "A - untrained"]
    for heading in (*headings, *(f"A - {letter}" for letter in letters[1:])):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        values = (number(value) for value in (row.untrained, *row.means))
        table.add_row(row.metric, str(row.queries), *values, *map(_shown, row.differences))
    return table


def _shown(one: Difference) -> str:
    mark = "*" if one.is_clear else " "
    return f"{_signed(one.mean)} [{_signed(one.low)}, {_signed(one.high)}]{mark}"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value)}"


def _how_queries_differ(first: Run, second: Run) -> str:
    lacking = [
        f"{count(len(only), 'query')} only in {one.name} ({_some(only)})"
        for one, other in ((first, second), (second, first))
        if (only := sorted(one.after.keys() - other.after.keys()))
    ]
    return (
        f"the runs were evaluated on different held-out queries: {' and '.join(lacking)}; compare "
        "runs with the same data and eval.queries"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMES_SHOWN]) + (DOTS if len(names) > NAMES_SHOWN else "")
