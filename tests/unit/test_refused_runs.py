"""Runs whose settings ask for what their task or data do not have: refused before Ray starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from gfn_ray.cli import main, parse
from gfn_ray.config.job import JobConfig
from gfn_ray.runtime.run import run
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tasks.infill.task import InfillTask
from gfn_ray.tasks.random_number.config import RandomNumberJob
from gfn_ray.tasks.random_number.task import RandomNumberTask
from gfn_ray.tasks.subjectivity.config import SubjectivityJob
from gfn_ray.tasks.subjectivity.task import SubjectivityTask
from gfn_ray.tasks.task import Task
from testing.job_runner import tiny_flags, tiny_number_flags
from testing.refusals import check, contents


def refused(
    kind: type[JobConfig], task: type[Task], flags: list[str], home: Path, capsys, *named: str
) -> None:
    """The run ends with one sentence that names these words, and leaves nothing behind."""
    before = contents(home)
    config = parse(kind, flags)
    code = main(lambda: run(config, task(config)))
    check(code, capsys.readouterr().err, *named)
    assert not ray.is_initialized()
    assert contents(home) == before


@pytest.mark.parametrize(
    ("metric", "remedy"), [("accuracy", "tv"), ("pareto_k_above", "log_z_gap, ess_fraction")]
)
def test_a_metric_that_is_not_measured_on_the_way_cannot_stop_it(
    metric: str, remedy: str, tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = tiny_number_flags(tiny_dir, tmp_path, stop__metric=metric, stop__below=0.3)
    named = (f"stop.metric got '{metric}'", remedy)
    refused(RandomNumberJob, RandomNumberTask, flags, tmp_path, capsys, *named)


def test_jeffreys_stops_a_run_only_where_queries_are_simulated(
    tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = tiny_flags(tiny_dir, tmp_path, stop__metric="jeffreys", stop__below=3, eval__every=2)
    named = ("stop.metric (jeffreys)", "eval.simulated_queries is 0")
    refused(InfillJob, InfillTask, flags, tmp_path, capsys, *named)


def test_a_root_may_stop_only_where_z_may_be_empty(
    tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = tiny_number_flags(tiny_dir, tmp_path, objective__root_flow="terminable")
    refused(RandomNumberJob, RandomNumberTask, flags, tmp_path, capsys, "objective.root_flow")


def test_policy_gradients_need_the_policys_own_samples_as_they_came(
    tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = tiny_number_flags(
        tiny_dir,
        tmp_path,
        objective__kind="ppo",
        sampler__epsilon_fraction=0,
        replay__seed_demonstrations="true",
    )
    named = (
        "objective.kind ppo",
        "set sampler.tempered_fraction 0, replay.edit_distance none, "
        "replay.seed_demonstrations false, replay.max_times_sampled 1",
    )
    refused(RandomNumberJob, RandomNumberTask, flags, tmp_path, capsys, *named)


def test_sft_needs_demonstrations(
    tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story = "storyid,storytitle,sentence1,sentence2,sentence3,sentence4,sentence5\n"
    rows = "".join(f"{i},t,A {i}.,C d.,E f.,{'G ' * 60}h.,I j.\n" for i in range(60))
    (tmp_path / "stories.csv").write_text(story + rows)
    flags = tiny_flags(
        tiny_dir,
        tmp_path,
        sft__steps=3,
        data__path=tmp_path / "stories.csv",
        task__length_prior="none",
    )
    said = "sft.steps asks for 3 updates on demonstrations, but no"
    refused(InfillJob, InfillTask, flags, tmp_path, capsys, said)


def test_bad_data(tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.write_text('{"text": "A man rows home.", "label": 2}\n')
    flags = ["--data.path", str(data), "--model.name", str(tiny_dir)]
    said = "data, line 1, label: expected 0 (objective) or 1 (subjective), got 2"
    refused(SubjectivityJob, SubjectivityTask, flags, tmp_path, capsys, said)
