"""docs/clusters.md is a promise: its files, targets, options and settings exist, and what it has a
run say, a run says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from ray.dashboard.modules.job.cli import job_cli_group
from ray.scripts.scripts import cli as ray_cli

from gfn_ray.cli import parse
from gfn_ray.tasks.infill.config import InfillJob

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "clusters.md").read_text()
README = (ROOT / "clusters" / "README.md").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
IN_TEXT = r"(?<!`)`([^`\n]+)`(?!`)"
COMMANDS = [
    *re.findall(r"^(?: {4}| {8})(\S.*)$", PAGE, re.MULTILINE),
    *re.findall(IN_TEXT, PAGE),
    *re.findall(IN_TEXT, README),
]


def about(word: str) -> list[str]:
    return [line for line in COMMANDS if re.search(rf"(?:^|\s){re.escape(word)}(?:\s|$)", line)]


def test_every_file_it_names_is_there() -> None:
    named = set(re.findall(r"\b(?:clusters|jobs|requirements)/[\w./-]*\w", PAGE + README))
    assert len(named) >= 12
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_file_of_the_folder_is_in_its_readme() -> None:
    files = [file for file in (ROOT / "clusters").rglob("*") if file.is_file()]
    named = [file.name for file in files if file.suffix not in (".pyc", ".dockerignore")]
    assert [name for name in named if name not in README and name != "README.md"] == []


def test_every_make_target_exists() -> None:
    named = {re.search(r"make ([a-z-]+)", line).group(1) for line in about("make")}  # type: ignore[union-attr]
    assert {"setup", "ray-up", "ray-down"} <= named <= TARGETS


@pytest.mark.parametrize("line", [line for line in about("jobs/infill.py") if " --" in line])
def test_every_setting_of_a_run_is_one(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "infill-a"
    run.mkdir(parents=True)
    (run / "config.toml").write_text("steps = 3\n")
    monkeypatch.setenv("GFN_RAY_HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    flags = shlex.split(line.split("jobs/infill.py", 1)[1].replace("$GFN_RAY_HOME", str(tmp_path)))
    assert isinstance(parse(InfillJob, flags), InfillJob)


RAY = [line[line.index("ray ") :].split("'")[0] for line in about("ray") if "file" not in line]


@pytest.mark.parametrize("line", sorted({line for line in RAY if not line.startswith("ray.")}))
def test_every_option_of_a_command_of_rays_is_one(line: str) -> None:
    words = line.split(" -- ")[0].split()[1:]
    group: click.Command = ray_cli
    if words[0] == "job":
        group, words = job_cli_group, words[1:]
    assert isinstance(group, click.Group)
    command = group.commands[words[0]]
    known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known


# Where text is broken over lines.
SOURCE = re.sub(
    r'"\s*\n\s*f?"', "", "".join(file.read_text() for file in (ROOT / "gfn_ray").rglob("*.py"))
)
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.split("## When something fails")[1].splitlines()
    if line.startswith("| ")
]


def test_what_a_run_is_quoted_to_say_it_says() -> None:
    quoted = [
        quote
        for seen, _, whose, _ in ROWS
        if whose.startswith("the run")
        for quote in re.findall(r"`([^`]+)`", seen)
    ]
    assert len(quoted) >= 8
    # Values stand in braces in the source.
    plain = SOURCE.replace("{EMBEDDED!r}", "'smollm2-135m'")
    assert [quote for quote in quoted if quote not in plain] == []
