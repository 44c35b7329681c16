"""--resume auto: the same command starts a run, and resumes it once it is there."""

from pathlib import Path

import pytest

from gfn_ray.cli import parse
from gfn_ray.settings_values import dump_toml
from gfn_ray.tasks.infill.config import InfillJob


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of a scheduler, which runs it again as it is."""
    monkeypatch.setenv("GFN_RAY_HOME", str(tmp_path))
    return ["--resume", "auto", "--run-dir", "runs/a", "--learner.lr", "2e-4", "--steps", "50"]


def begin(command: list[str], home: Path) -> InfillJob:
    """Stores the settings of a run, as its start does."""
    config = parse(InfillJob, command)
    (home / "runs/a").mkdir(parents=True, exist_ok=True)
    (home / "runs/a/config.toml").write_text(dump_toml(config))
    return config


def test_the_first_time_it_starts_a_run(command: list[str], tmp_path: Path) -> None:
    config = parse(InfillJob, command)
    assert config == parse(InfillJob, command[2:])
    (tmp_path / "runs/a").mkdir(parents=True)  # cut off before it had written its settings
    assert parse(InfillJob, command) == config


def test_the_second_time_it_resumes_that_run(command: list[str], tmp_path: Path) -> None:
    begun = begin(command, tmp_path)
    found = parse(InfillJob, command)
    assert found.resume == tmp_path / "runs/a"
    assert found.model_copy(update={"resume": None}) == begun


def test_what_may_change_does(command: list[str], tmp_path: Path) -> None:
    begin(command, tmp_path)
    found = parse(InfillJob, [*command[:-1], "80", "--runtime.max-restarts", "3"])
    assert (found.steps, found.runtime.max_restarts) == (80, 3)
    assert found.learner.lr == 2e-4


def test_what_a_start_makes_exact_counts_as_the_same(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    command += ["--model.name", "model", "--policy.lora-targets", "all-linear"]
    begin(command, tmp_path)
    file = tmp_path / "runs/a/config.toml"
    exact = file.read_text().replace('"model"', f'"{tmp_path / "model"}"')
    file.write_text(exact.replace("all-linear", "q_proj"))
    assert parse(InfillJob, command).policy.lora_targets == ("q_proj",)


def test_settings_of_a_file_count_as_those_of_flags_do(command: list[str], tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("steps = 60\n[learner]\nlr = 0.0002\n")
    told = [*command[:4], "--config", str(file)]
    begin(told, tmp_path)
    file.write_text("steps = 70\n[learner]\nlr = 0.0002\n")
    assert parse(InfillJob, told).steps == 70


def test_another_setting_than_the_runs_is_refused_and_both_are_named(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(command, tmp_path)
    with pytest.raises(SystemExit) as refused:
        parse(InfillJob, [*command, "--learner.lr", "1e-3"])
    assert refused.value.code == 2
    error = capsys.readouterr().err
    assert "--learner.lr got 0.001" in error and "began with 0.0002" in error
    assert "--run-dir" in error


def test_without_a_directory_it_says_how_a_run_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        parse(InfillJob, ["--resume", "auto"])
    assert "--run-dir" in capsys.readouterr().err
