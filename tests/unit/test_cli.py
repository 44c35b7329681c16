"""The command line: what it accepts, what it says of a mistake, and how fast it helps."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from gfn_ray import __version__
from gfn_ray.cli import main, parse
from gfn_ray.config.objectives import DBConfig, ObjectiveConfig, SubTBConfig, TBConfig
from gfn_ray.errors import RunFailed, UserError
from gfn_ray.settings import settings_of
from gfn_ray.settings_values import dump_toml
from gfn_ray.tasks.infill.config import InfillJob

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "vllm", "transformers", "mlflow", "rich")


def resolved(*argv: str) -> InfillJob:
    return parse(InfillJob, argv, "infill.py")


def refusal(
    capsys: pytest.CaptureFixture[str], *argv: str, job: type[BaseModel] = InfillJob
) -> str:
    """The one line on stderr, after checking that it is one and that the exit code is 2."""
    with pytest.raises(SystemExit) as ended:
        parse(job, argv, "infill.py")
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    return err.removeprefix("error: ").rstrip("\n")


# What is accepted


def test_without_arguments_every_setting_has_its_default() -> None:
    assert resolved() == InfillJob()


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--learner.lr", "1e-4"], "learner.lr", 1e-4),
        (["--learner.lr=1e-4"], "learner.lr", 1e-4),
        (["--max-staleness", "0"], "max_staleness", 0),
        (["--max_staleness", "0"], "max_staleness", 0),
        (["--learner.queries-per-step", "1"], "learner.queries_per_step", 1),
        (["--learner.queries_per_step", "1"], "learner.queries_per_step", 1),
        (["--steps", "3", "--steps", "4"], "steps", 4),
        (["--policy.lora-rank", "64"], "policy.lora_rank", 64),
        (["--policy.lora-targets", "q_proj, v_proj"], "policy.lora_targets", ("q_proj", "v_proj")),
        (["--data.path", "a/../b.csv"], "data.path", Path.cwd() / "b.csv"),
        (["--data.test-path", "~/b.csv"], "data.test_path", Path.home() / "b.csv"),
        (["--data.columns", "a=b, c=d"], "data.columns", ("a=b", "c=d")),
        (["--data.path", "none"], "data.path", None),
        (["--replay.max-times-sampled", "none"], "replay.max_times_sampled", None),
        (["--model.trust-remote-code"], "model.trust_remote_code", True),
        (["--no-model.trust-remote-code"], "model.trust_remote_code", False),
        (["--no_model.trust_remote_code"], "model.trust_remote_code", False),
        (["--model.trust-remote-code", "true"], "model.trust_remote_code", True),
        (["--model.trust-remote-code", "false"], "model.trust_remote_code", False),
        (["--model.trust-remote-code=true"], "model.trust_remote_code", True),
        (["--model.trust-remote-code", "--steps", "3"], "model.trust_remote_code", True),
        (["--model.name=--odd"], "model.name", "--odd"),
        (["--model.name", ""], "model.name", ""),
    ],
)
def test_a_flag_sets_its_setting(argv: list[str], name: str, value: Any) -> None:
    config: Any = resolved(*argv)
    for key in name.split("."):
        config = getattr(config, key)
    assert config == value
    assert type(config) is type(value)


def test_negative_numbers_are_values_not_flags() -> None:
    class Job(BaseModel):
        floor: float = Field(-20.0, description="Floor.")

    assert parse(Job, ["--floor", "-3.5"]).floor == -3.5


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("steps = 7\n[learner]\nlr = 0.25\nwarmup_steps = 0\n")
    config = resolved("--learner.lr", "0.5", "--config", str(file))
    assert (config.steps, config.learner.lr, config.learner.warmup_steps) == (7, 0.5, 0)
    assert config.learner.queries_per_step == InfillJob().learner.queries_per_step


def test_a_jobs_own_section_defaults_survive_a_flag_in_that_section() -> None:
    class Section(BaseModel):
        lr: float = 1.0
        decay: float = 0.0

    class Job(BaseModel):
        learner: Section = Field(default_factory=lambda: Section(decay=0.5))

    assert parse(Job, ["--learner.lr", "2"]).learner == Section(lr=2.0, decay=0.5)


def test_environment_variables_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPS", "3")
    monkeypatch.setenv("GFN_RAY_STEPS", "3")
    assert resolved() == InfillJob()


def test_each_kind_of_a_section_has_its_own_defaults() -> None:
    class Job(BaseModel):
        objective: ObjectiveConfig = Field(
            default_factory=lambda: TBConfig(root_flow="learned", log_z_lr=0.5)
        )

    def objective(*argv: str) -> Any:
        return parse(Job, argv).objective

    assert objective() == TBConfig(root_flow="learned", log_z_lr=0.5)
    assert objective("--objective.log-z-lr", "0.1").root_flow == "learned"
    assert objective("--objective.kind", "tb", "--objective.float64").root_flow == "learned"
    assert objective("--objective.kind", "db") == DBConfig()
    assert objective("--objective.subtb-lambda", "2", "--objective.kind", "subtb") == SubTBConfig(
        subtb_lambda=2
    )


# What is refused


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--learner.lr", "abc"], "--learner.lr got 'abc'; it takes a number, above 0"),
        (["--learner.lr", "-1"], "--learner.lr got -1.0; it takes a number, above 0"),
        (["--learner.lr", "nan"], "--learner.lr got nan; it takes a number, above 0"),
        (["--learner.lr", "inf"], "--learner.lr got inf; it takes a number, above 0"),
        (["--learner.lr", ""], "--learner.lr got ''; it takes a number, above 0"),
        (["--learner.lr"], "--learner.lr got no value; it takes a number, above 0"),
        (["--learner.lr", "--steps", "3"], "--learner.lr got no value; it takes a number, above 0"),
        (["--steps", "1.5"], "--steps got '1.5'; it takes a whole number, at least 0"),
        (["--steps", "none"], "--steps got 'none'; it takes a whole number, at least 0"),
        (["--steps", "-1"], "--steps got -1; it takes a whole number, at least 0"),
        (
            ["--policy.lora-rank", "9"],
            "--policy.lora-rank got '9'; it takes one of 1, 8, 16, 32, 64, 128, 256, 320, 512",
        ),
        (
            ["--replay.max-times-sampled", "0"],
            "--replay.max-times-sampled got 0; it takes a whole number, at least 1, or none",
        ),
        (
            ["--model.trust-remote-code=yes"],
            "--model.trust-remote-code got 'yes'; it takes true or false",
        ),
        (
            ["--no-model.trust-remote-code=true"],
            "--no-model.trust-remote-code takes no value; "
            "write --model.trust-remote-code=true instead",
        ),
        (["--run-dir", ""], "--run-dir got ''; it takes a path, or none"),
        (["--learner.lrr", "1"], "unknown setting --learner.lrr; did you mean --learner.lr?"),
        (
            ["--lr", "1"],
            "unknown setting --lr; did you mean --sft.lr or --learner.lr or --tune-base.lr?",
        ),
        (["--step", "1"], "unknown setting --step; did you mean --steps?"),
        (["--max-stale", "1"], "unknown setting --max-stale; did you mean --max-staleness?"),
        (["--no-learner.lr"], "unknown setting --no-learner.lr; did you mean --learner.lr?"),
        (["--bananas", "1"], "unknown setting --bananas; --help lists every setting"),
        (
            ["--learner", "1"],
            "--learner is a section; name one of its settings, such as --learner.queries-per-step",
        ),
        (["lr=1"], "unexpected argument 'lr=1'; settings are written --name value"),
        (["-lr", "1"], "unexpected argument '-lr'; settings are written --name value"),
        (["--"], "unknown setting --; --help lists every setting"),
        (["--config"], "--config got no value; it takes a path"),
        (["--config", "a", "--config", "b"], "--config got two files, a and b; it takes one"),
        (
            ["--task.min-len", "30"],
            "task.min_len (30) exceeds task.max_len (20); lower the first or raise the second",
        ),
        (
            ["--replay.per-query", "2"],
            "replay.per_query (2) is below learner.trajectories_per_query (8): "
            "no query could fill a group; raise the first",
        ),
    ],
)
def test_a_bad_command_line_gets_one_line(
    argv: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, *argv) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "[learner]\nlr = 'abc'",
            "learner.lr in run.toml got 'abc'; it takes a number, above 0",
        ),
        ("[learner]\nlr = '1e-4'", "learner.lr in run.toml got '1e-4'; it takes a number, above 0"),
        ("[learner]\nlr = -1", "learner.lr in run.toml got -1; it takes a number, above 0"),
        ("[learner]\nlr = nan", "learner.lr in run.toml got nan; it takes a number, above 0"),
        ("steps = true", "steps in run.toml got True; it takes a whole number, at least 0"),
        ("steps = 3.0", "steps in run.toml got 3.0; it takes a whole number, at least 0"),
        ("steps = []", "steps in run.toml got []; it takes a whole number, at least 0"),
        ("steps = {}", "steps in run.toml got {}; it takes a whole number, at least 0"),
        (
            "[policy]\nlora_rank = [8]",
            "policy.lora_rank in run.toml got [8]; "
            "it takes one of 1, 8, 16, 32, 64, 128, 256, 320, 512",
        ),
        (
            "[policy]\nlora_targets = ['q_proj', 3]",
            "policy.lora_targets in run.toml got ['q_proj', 3]; "
            "it takes text, or several, separated by commas",
        ),
        ("run_dir = 3", "run_dir in run.toml got 3; it takes a path, or none"),
        ("learner = 3", "learner in run.toml got 3; it is a section, [learner]"),
        (
            "lr = 3",
            "unknown setting lr in run.toml; did you mean sft.lr or learner.lr or tune_base.lr?",
        ),
        (
            "max-staleness = 3",
            "unknown setting max-staleness in run.toml; did you mean max_staleness?",
        ),
        (
            "[learner]\nlearning = 3",
            "unknown setting learner.learning in run.toml; did you mean learner.lr?",
        ),
    ],
)
def test_a_bad_value_in_the_file_gets_one_line(
    text: str,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(text)
    assert refusal(capsys, "--config", "run.toml") == line


@pytest.mark.parametrize(
    ("content", "where"),
    [(b"steps = 1\nseed =\n", "line 2"), (b"a = 1\na = 2\n", "line 2")],
)
def test_a_file_that_is_no_toml_is_named_with_the_place(
    content: bytes,
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_bytes(content)
    line = refusal(capsys, "--config", "run.toml")
    assert line.startswith("--config got run.toml, which is not TOML: ")
    assert where in line


def test_a_long_value_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(refusal(capsys, "--steps", "9x" * 500)) < 150


def test_a_missing_required_setting_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    class Job(BaseModel):
        source: Path = Field(description="Where from.")

    assert refusal(capsys, job=Job) == "--source is missing; it takes a path"


def test_a_type_that_no_flag_can_spell_is_a_bug_in_the_config() -> None:
    class Job(BaseModel):
        table: dict[str, int] = {}

    with pytest.raises(TypeError, match="'Table'"):
        settings_of(Job)


# The resolved config as TOML


def test_the_written_config_reads_back_equal(tmp_path: Path) -> None:
    config = resolved(
        *("--data.path", "a b/stories.csv", "--replay.max-times-sampled", "none"),
        *("--policy.lora-targets", "q_proj", "--learner.lr", "3e-05", "--run-dir", "~/x"),
        *("--data.test-path", "../b.csv", "--data.columns", "a=storyid", "--data.too-long", "skip"),
    )
    assert config.replay.max_times_sampled is None
    file = tmp_path / "config.toml"
    file.write_text(dump_toml(config))
    assert resolved("--config", str(file)) == config


@pytest.mark.parametrize("kind", ["subtb", "db", "tb", "vargrad", "ref_tb"])
def test_the_written_config_has_the_settings_of_its_kind_alone(kind: str, tmp_path: Path) -> None:
    config = resolved("--objective.kind", kind, "--objective.float64")
    file = tmp_path / "config.toml"
    file.write_text(dump_toml(config))
    assert tomllib.loads(file.read_text())["objective"] == config.objective.model_dump()
    assert resolved("--config", str(file)) == config


def test_values_that_are_none_by_default_are_left_out() -> None:
    written = dump_toml(InfillJob())
    assert "run_dir" not in written
    assert "none" not in written


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_the_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    config = resolved(f"--tracking.experiment={text}")
    file = tmp_path_factory.mktemp("toml") / "config.toml"
    file.write_bytes(dump_toml(config).encode())
    assert resolved("--config", str(file)) == config


# Help, version and exit codes


def test_help_shows_every_setting_with_description_and_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(InfillJob, ["--learner.lr", "bad", "--help"], "infill.py")
    shown = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    for setting in settings_of(InfillJob).values():
        assert f"{setting.flag} " in shown
        assert " ".join((setting.schema.get("description") or "?").split()) in shown
    assert "learner: The updates." in shown
    assert "AdamW's learning rate after warm-up. [a number, above 0; default 0.0005]" in shown
    assert "--policy.lora-rank 1|8|16|32|64|128|256|320|512" in shown


def test_help_shows_the_settings_of_each_kind_under_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(InfillJob, ["--help"], "infill.py")
    blocks = capsys.readouterr().out.split("\n\n")
    flags = {
        block.split(":")[0]: set(re.findall("--objective[^ \n]+", block))
        for block in blocks
        if block.startswith("objective.kind")
    }
    common = {"--objective.float64"}
    rooted = common | {"--objective.root-flow", "--objective.log-z-lr"}
    rewarded = common | {"--objective.reference", "--objective.reward"}
    clipped = rewarded | {"--objective.clip"}
    assert flags == {
        "objective.kind subtb": rooted | {"--objective.subtb-lambda"},
        "objective.kind db": rooted,
        "objective.kind tb": rooted,
        "objective.kind vargrad": common,
        "objective.kind ref_tb": common | {"--objective.reference"},
        "objective.kind ppo": clipped,
        "objective.kind rloo": clipped,
        "objective.kind grpo": clipped,
        "objective.kind dpo": rewarded | {"--objective.pairs"},
        "objective.kind mle": common | {"--objective.accept-from"},
    }


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(InfillJob, ["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"gfn_ray {__version__}\n")


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from gfn_ray.cli import parse\n"
        "from gfn_ray.tasks.infill.config import InfillJob\n"
        "try:\n"
        "    parse(InfillJob, ['--help'], 'infill.py')\n"
        "finally:\n"
        f"    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
    assert "--learner.lr" in done.stdout


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            UserError("data.path got x;\nit takes a CSV"),
            2,
            "error: data.path got x; it takes a CSV",
        ),
        (RunFailed("the learner died"), 3, "error: the learner died"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_expected_endings_have_a_code_and_one_line(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> int:
        raise error

    assert main(run) == code
    assert capsys.readouterr().err == line + "\n"


def test_a_run_that_ends_well_keeps_its_own_code() -> None:
    assert main(lambda: 0) == 0


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        main(lambda: 1 // 0)


def test_a_reader_of_help_who_has_seen_enough_gets_no_traceback():
    job = [sys.executable, str(ROOT / "jobs" / "infill.py"), "--help"]
    with subprocess.Popen(job, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reading:
        assert reading.stdout is not None and reading.stderr is not None
        reading.stdout.close()
        assert reading.stderr.read() == b""
    assert reading.returncode == 0
