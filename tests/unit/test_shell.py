"""The command gfn-ray: its words, its completion, and the wheel that installs it."""

import subprocess
import sys
from pathlib import Path

import pytest

import gfn_ray
from gfn_ray.errors import UserError
from gfn_ray.shell import COMMANDS, JOBS, SERVING, command, completions
from gfn_ray.tasks.catalog import BUILT_IN

ROOT = Path(__file__).resolve().parents[2]


def test_every_job_has_a_file_and_every_file_is_a_job():
    files = {file.stem.replace("_", "-") for file in (ROOT / "jobs").glob("*.py")}
    assert files == set(JOBS)


def test_every_built_in_task_is_trained_by_a_command_with_its_own_settings():
    for name, task in BUILT_IN.items():
        assert JOBS[name.replace("_", "-")].settings() is task().job


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(words, capsys):
    assert command(words) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in (*JOBS, *SERVING))


def test_version_is_the_packages(capsys):
    command(["--version"])
    assert capsys.readouterr().out == f"gfn_ray {gfn_ray.__version__}\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["promts"], "did you mean prompts"),
        (["xyz"], "gfn-ray --help lists them"),
        (["sample"], "needs an adapter directory"),
        (["completion", "csh"], "takes bash or zsh, got csh"),
    ],
)
def test_a_wrong_word_is_told(words, complaint):
    with pytest.raises(UserError, match=complaint):
        command(words)


def test_a_jobs_help_names_the_command(capsys):
    with pytest.raises(SystemExit):
        command(["prompts", "--help"])
    assert capsys.readouterr().out.startswith("usage: gfn-ray prompts ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["in"], ["infill"]),
        (["prompts", "--task.pr"], ["--task.prior"]),
        (["prompts", "--task.length-prior", "n"], ["none"]),
        (["prompts", "--objective.kind", "var"], ["vargrad"]),
        (["prompts", "--data.path", "pro"], []),
        (["prompts", "--steps", "1"], []),
        (["sample", "--x"], []),
        (["nothing", "--x"], []),
    ],
)
def test_words_are_completed_to_what_may_stand_there(words, expected):
    assert completions(words) == expected


def test_every_command_is_offered_at_first():
    assert completions([""]) == completions([]) == [*COMMANDS, *SERVING, "completion"]


def test_bash_completes_by_the_script_that_is_printed(tmp_path):
    """A real bash, as Tab has it called; the command on the path is this package's."""
    program = tmp_path / "gfn-ray"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m gfn_ray "$@"\n')
    program.chmod(0o755)
    script = (
        f'PATH={tmp_path}:$PATH; eval "$(gfn-ray completion bash)"\n'
        "COMP_WORDS=(gfn-ray prompts --task.beta); COMP_CWORD=2; _gfn_ray\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.stdout == "--task.beta\n", done.stderr
