"""The final report of a run: metrics before and after training, samples, and paths.

Lays out and words the report; it shows the metrics of summary.json and computes none.
"""

from __future__ import annotations

import math
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from gfn_ray.evaluation.decoder_table import fill_decoder_table
from gfn_ray.formatting import duration, number, one_line
from gfn_ray.tracking import redact_uri

SAMPLES_PER_EXAMPLE = 3
WIDE = 110  # columns from which a metric's meaning fits next to its numbers
_GAP = "[ ... ]"


class MetricDirection(Protocol):
    """better: "higher", "lower" or "none". meaning: a few words for people."""

    @property
    def better(self) -> str: ...

    @property
    def meaning(self) -> str: ...


@dataclass(frozen=True)
class Example:
    """One held-out query: the texts around z, its demonstration, and samples of two policies."""

    left: str
    right: str
    truth: str
    before: Sequence[str]
    after: Sequence[str]


# MLflow 3.17's other pages open its view of GenAI applications, whatever an experiment's kind.
_TRAINING_PAGE = "/#/experiments?workflowType=machine_learning"
_OWN_SERVER = "http://127.0.0.1:5000"  # `mlflow ui`


@dataclass(frozen=True)
class ReportPaths:
    """tracking_uri: resolved, so that the printed command works from any directory."""

    run_dir: Path
    adapter: Path
    tracking_uri: str


def final_report(
    summary: Mapping[str, Any],
    directions: Mapping[str, MetricDirection],
    examples: Sequence[Example],
    paths: ReportPaths,
    findings: Sequence[str] = (),
) -> FinalReport:
    """Returns the report of a run, for `Display.show`. findings: lines from the task."""
    return FinalReport(summary, directions, examples, paths, findings)


@dataclass(frozen=True)
class FinalReport:
    """A rich renderable that adapts to its console: colours on a terminal, ASCII in logs."""

    summary: Mapping[str, Any]
    directions: Mapping[str, MetricDirection]
    examples: Sequence[Example]
    paths: ReportPaths
    findings: Sequence[str] = ()

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        plain = not console.is_terminal or options.ascii_only
        wide = options.max_width >= WIDE
        yield Text()
        yield Text(_headline(self.summary), style="bold")
        yield self._metrics(plain, wide)
        if not wide:
            yield self._legend()
        if self.summary.get("baselines"):
            yield Text()
            yield Text("Baselines, on the same held-out queries", "bold")
            yield fill_decoder_table(_table(plain), self.summary, self._names())
        lines = [*self.findings, *self.summary.get("warnings", ())]
        if peaks := self.summary.get("peak_mib"):
            lines.append(f"peak memory: {_peaks(peaks)}")
        if lines:
            yield Text()
            yield from map(Text, lines)
        for example in self.examples:
            yield Text()
            yield _given(example)
            yield _samples(example, plain)
        yield Text()
        yield from self._closing()

    def _metrics(self, plain: bool, wide: bool) -> Table:
        before, after = self.summary["before"], self.summary["after"]
        table = _table(plain)
        table.add_column("metric", overflow="fold")
        for heading in ("before", "after", "change"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("better", no_wrap=True)
        table.add_column("", no_wrap=True)
        if wide:
            table.add_column("meaning")
        for name in self._names():
            info = self.directions.get(name)
            better = info.better if info and info.better != "none" else ""
            verdict = _verdict(before.get(name), after.get(name), better)
            row: list[RenderableType] = [
                Text(name),
                Text(number(before.get(name))),
                Text(number(after.get(name)), style="bold"),
                Text(_change(before.get(name), after.get(name))),
                Text(better),
                Text(verdict, style={"improved": "green", "worse": "red"}.get(verdict, "dim")),
            ]
            table.add_row(*row, *([Text(info.meaning if info else "", "dim")] if wide else []))
        return table

    def _legend(self) -> Table:
        legend = Table.grid(padding=(0, 2, 0, 1))
        for name in self._names():
            if name in self.directions:
                legend.add_row(Text(name, "dim"), Text(self.directions[name].meaning, "dim"))
        return legend

    def _names(self) -> list[str]:
        """Returns metrics in the task's order, then any that it does not describe."""
        measured = {**self.summary["before"], **self.summary["after"]}
        known = [name for name in self.directions if name in measured]
        return known + [name for name in measured if name not in self.directions]

    def _closing(self) -> Iterator[Text]:
        uri = redact_uri(self.paths.tracking_uri)
        lines = [("run", str(self.paths.run_dir)), ("adapter", str(self.paths.adapter))]
        if uri.startswith(("http://", "https://")):
            lines.append(("MLflow", f"{uri.rstrip('/')}{_TRAINING_PAGE}"))
        else:
            lines.append(("MLflow", f"{_mlflow()} ui --backend-store-uri {shlex.quote(uri)}"))
            lines.append(("", f"{_OWN_SERVER}{_TRAINING_PAGE}"))
        for label, value in lines:
            # One line each, however long, so that they can be copied.
            text = Text(f"{label:<9}", style="bold", no_wrap=True, overflow="ignore")
            yield text.append(value, style="not bold")


def _mlflow() -> str:
    """Returns MLflow's command: its name, or its path if its environment is not active."""
    beside_python = Path(sys.executable).with_name("mlflow")
    return "mlflow" if shutil.which("mlflow") else shlex.quote(str(beside_python))


def _headline(summary: Mapping[str, Any]) -> str:
    model = str(summary.get("model", "a model"))
    if summary.get("base_adapter"):
        model = f"a tuned base, {Path(model).name}"
    parts = [f"{summary.get('task', 'run')} on {model}"]
    if summary.get("sft_steps"):
        parts.append(f"{summary['sft_steps']:,} likelihood updates")
    if summary.get("steps"):
        parts.append(f"{summary['steps']:,} updates")
    if "trajectories" in summary:
        parts.append(f"{summary['trajectories']:,} trajectories")
    if "wall_seconds" in summary:
        parts.append(f"{duration(summary['wall_seconds'])} of wall time")
    return ", ".join(parts)


def _peaks(peaks: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {mib:,.0f} MiB" for name, mib in peaks.items())


def _table(plain: bool, **options: Any) -> Table:
    style = box.MARKDOWN if plain else box.SIMPLE_HEAD
    return Table(box=style, header_style="bold", pad_edge=plain, safe_box=True, **options)


def _given(example: Example) -> Table:
    given = Table.grid(padding=(0, 2, 0, 0))
    context_text = " ".join(filter(None, (one_line(example.left), _GAP, one_line(example.right))))
    given.add_row(Text("given", "bold"), Text(context_text))
    if example.truth:
        given.add_row(Text("true", "bold"), Text(one_line(example.truth), "italic"))
    return given


def _samples(example: Example, plain: bool) -> Table:
    table = _table(plain, expand=True)
    table.add_column("before", ratio=1, overflow="fold")
    table.add_column("after", ratio=1, overflow="fold")
    shown = max(len(example.before), len(example.after))
    for i in range(min(shown, SAMPLES_PER_EXAMPLE)):
        # The dash marks the beginning of a sample, which may fill several lines.
        before, after = (
            f"- {one_line(side[i])}" if i < len(side) else ""
            for side in (example.before, example.after)
        )
        table.add_row(Text(before, "dim"), Text(after, "green"))
    return table


def _change(before: float | None, after: float | None) -> str:
    """Formats the difference, and the ratio if both are positive, for variances and gaps."""
    if not _known(before, after):
        return "-"
    assert before is not None and after is not None
    if number(before) == number(after):
        return "0"
    difference = after - before
    sign = "+" if difference > 0 else ""
    ratio = f" (x{after / before:.2f})" if before > 0 and after > 0 else ""
    return f"{sign}{number(difference)}{ratio}"


def _verdict(before: float | None, after: float | None, better: str) -> str:
    if not better or not _known(before, after):
        return ""
    assert before is not None and after is not None
    if number(before) == number(after):
        return "same"
    return "improved" if (after > before) == (better == "higher") else "worse"


def _known(*values: float | None) -> bool:
    return all(value is not None and math.isfinite(value) for value in values)
