"""The report at the end of a run, in a log and on a terminal."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from gfn_ray.evaluation.report import Example, FinalReport, ReportPaths, final_report
from gfn_ray.runs.display import make_console
from gfn_ray.tasks.catalog import BUILT_IN


@dataclass(frozen=True)
class Info:
    better: str
    meaning: str


DIRECTIONS = {
    "log_ratio_var": Info("lower", "Var(log R/T - log q) within a query"),
    "elbo": Info("higher", "mean log R/T - log q"),
    "stopped_fraction": Info("higher", "samples that stop by themselves"),
    "length_mean": Info("none", "tokens of z"),
    "not_measured": Info("lower", "a metric of another task"),
}
SUMMARY: dict[str, Any] = {
    "task": "infill",
    "model": "smollm2-135m",
    "steps": 100,
    "trajectories": 1616,
    "wall_seconds": 552.3,
    "before": {"length_mean": 12.6, "log_ratio_var": 49.3, "elbo": -46.4, "stopped_fraction": 1.0},
    "after": {"length_mean": 7.4, "log_ratio_var": 9.3, "elbo": -47.0, "stopped_fraction": 1.0},
}
EXAMPLE = Example(
    left="Mia mixed everything in a bowl.",
    right="Her brother asked for a second slice.",
    truth="She put the cake in the oven.",
    before=[
        "She was so happy that she decided to go to the store and buy some more",
        "Two\nlines.",
    ],
    after=["She baked it for an hour.", "[red]Plain[/red] text.", "Third.", "Fourth."],
)
LONG = Path("/a/very/long/path/that/does/not/fit/in/eighty/columns/of/text/runs/infill-1")
PATHS = ReportPaths(LONG, LONG / "adapter", "sqlite:////srv/my data/mlflow.db")

PAGE = "/#/experiments?workflowType=machine_learning"  # with MLflow's view of trained models
MLFLOW = Path(sys.executable).with_name("mlflow")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def no_active_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")


def printed(
    monkeypatch: pytest.MonkeyPatch,
    width: int = 80,
    stream: io.StringIO | None = None,
    summary: Mapping[str, Any] = SUMMARY,
    paths: ReportPaths = PATHS,
) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = stream or io.StringIO()
    report = final_report(summary, DIRECTIONS, [EXAMPLE], paths)
    assert isinstance(report, FinalReport)
    make_console(stream).print(report, crop=False)
    return stream.getvalue()


def cells(shown: str, metric: str) -> list[str]:
    """The cells of a metric's row in a log."""
    row = next(line for line in shown.splitlines() if line.startswith(f"| {metric} "))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_peak_memory_of_every_process_stands_in_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "peak memory" not in printed(monkeypatch)
    shown = printed(
        monkeypatch, summary={**SUMMARY, "peak_mib": {"sampler_0": 2048.4, "replay": 9}}
    )
    assert "peak memory: sampler 0 2,048 MiB, replay 9 MiB" in shown


@pytest.mark.parametrize(
    ("metric", "row"),
    [
        ("log_ratio_var", ["49.3", "9.30", "-40.0 (x0.19)", "lower", "improved"]),
        ("elbo", ["-46.4", "-47.0", "-0.60", "higher", "worse"]),
        ("stopped_fraction", ["1.00", "1.00", "0", "higher", "same"]),
        ("length_mean", ["12.6", "7.40", "-5.20 (x0.59)", "", ""]),
    ],
)
def test_a_metric_has_before_after_change_and_a_word_on_its_direction(
    metric: str, row: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cells(printed(monkeypatch), metric) == [metric, *row]


@pytest.mark.parametrize("width", [80, 120])
def test_every_measured_metric_is_explained_in_the_tasks_order(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = printed(monkeypatch, width)
    places = [shown.index(name) for name in ("log_ratio_var", "elbo", "stopped_", "length_mean")]
    assert places == sorted(places)
    for name, info in DIRECTIONS.items():
        assert (info.meaning in shown) == (name != "not_measured")


def test_numbers_that_are_missing_or_undefined_get_no_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    summary = {"before": {"elbo": math.nan}, "after": {"elbo": 1.0, "extra": 2.0}}
    shown = printed(monkeypatch, summary=summary)
    assert cells(shown, "elbo") == ["elbo", "nan", "1.00", "-", "higher", ""]
    assert cells(shown, "extra") == ["extra", "-", "2.00", "-", "", ""]


def test_findings_and_warnings_stand_between_the_table_and_the_examples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream = io.StringIO()
    summary = {**SUMMARY, "warnings": ["do not trust log_z"]}
    report = final_report(summary, DIRECTIONS, [EXAMPLE], PATHS, ["most over-weighted: 7"])
    make_console(stream).print(report, crop=False)
    shown = stream.getvalue()
    places = ["log_ratio_var", "most over-weighted: 7", "do not trust log_z", EXAMPLE.truth]
    assert sorted(places, key=shown.index) == places


def test_the_query_the_truth_and_the_samples_stand_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = printed(monkeypatch)
    words = " ".join(shown.split())
    assert f"given {EXAMPLE.left} [ ... ] {EXAMPLE.right}" in words
    assert f"true {EXAMPLE.truth}" in words
    assert "| - Two lines. | - [red]Plain[/red] text. |" in words
    assert "- Third." in shown
    assert "Fourth" not in shown


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_log_is_ascii_and_keeps_to_its_width(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = printed(monkeypatch, width)
    assert shown.isascii()
    paths = ("run ", "adapter ", "MLflow ", "         http://")
    lines = [line for line in shown.splitlines() if not line.startswith(paths)]
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("task", BUILT_IN)
def test_no_metrics_name_is_folded_in_a_log_that_says_nothing_of_its_width(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    kind = BUILT_IN[task]()
    metrics = kind(kind.job()).metrics
    summary = {"before": dict.fromkeys(metrics, 0.0291), "after": dict.fromkeys(metrics, 0.0356)}
    stream = io.StringIO()
    make_console(stream).print(final_report(summary, metrics, [], PATHS), crop=False)
    for name in metrics:
        assert cells(stream.getvalue(), name)[:3] == [name, "0.0291", "0.0356"]


def test_a_terminal_gets_colours_and_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = printed(monkeypatch, stream=Terminal())
    assert "\x1b[32mimproved" in shown
    assert "\x1b[31mworse" in shown
    assert "─" in shown
    assert "log_ratio_var" in Text.from_ansi(shown).plain


def test_paths_are_whole_and_the_command_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(monkeypatch).splitlines()[-4:] == [
        f"run      {LONG}",
        f"adapter  {LONG}/adapter",
        f"MLflow   {MLFLOW} ui --backend-store-uri 'sqlite:////srv/my data/mlflow.db'",
        f"         http://127.0.0.1:5000{PAGE}",
    ]


@pytest.mark.parametrize(
    ("uri", "line"),
    [
        ("http://127.0.0.1:5000/", f"MLflow   http://127.0.0.1:5000{PAGE}"),
        ("https://me:secret@mlflow.example.org", f"MLflow   https://***@mlflow.example.org{PAGE}"),
        (
            "postgresql://me:secret@db/mlflow",
            f"MLflow   {MLFLOW} ui --backend-store-uri 'postgresql://***@db/mlflow'",
        ),
    ],
)
def test_servers_are_named_without_their_secrets(
    uri: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = printed(monkeypatch, paths=ReportPaths(LONG, LONG, uri))
    assert line in shown.splitlines()[-2:]
    assert "secret" not in shown


def test_an_active_environment_needs_no_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(MLFLOW.parent))
    assert "MLflow   mlflow ui --backend-store-uri " in printed(monkeypatch)


def test_decoders_stand_beside_the_policy_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    baselines = {
        "beam": {"elbo": -1.5, "length_mean": 4.0},
        "greedy": {"elbo": -2.5, "length_mean": 5.0},
    }
    shown = printed(monkeypatch, summary={**SUMMARY, "baselines": baselines})
    assert cells(shown, "baseline") == ["baseline", "elbo", "length_mean"]
    assert cells(shown, "beam") == ["beam", "-1.50", "4.00"]
    assert cells(shown, "sampling (before)") == ["sampling (before)", "-46.4", "12.6"]
    assert cells(shown, "GFlowNet (after)") == ["GFlowNet (after)", "-47.0", "7.40"]
    assert "baseline" not in printed(monkeypatch, summary={**SUMMARY, "baselines": {}})
