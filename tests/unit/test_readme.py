"""The README is a promise: its targets, settings and paths exist; so do targets of other pages."""

import re
from pathlib import Path

import pytest

from gfn_ray.cli import parse
from gfn_ray.comparison.config import ComparisonJob
from gfn_ray.tasks.arithmetic.config import ArithmeticJob
from gfn_ray.tasks.continuation.config import ContinuationJob
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tasks.prompts.config import PromptsJob
from gfn_ray.tasks.random_number.config import RandomNumberJob
from gfn_ray.tasks.subjectivity.config import SubjectivityJob

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
JOBS = {
    "arithmetic": ArithmeticJob,
    "comparison": ComparisonJob,
    "continuation": ContinuationJob,
    "infill": InfillJob,
    "prompts": PromptsJob,
    "random_number": RandomNumberJob,
    "subjectivity": SubjectivityJob,
}
OURS = [
    (job, line)
    for job in JOBS
    for line in README.splitlines()
    if f"{job}.py" in line or f"make {job.replace('_', '-')}" in line
]


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`?make ([a-z-]+)", README)) - {"a"}))
def test_every_make_target_it_names_exists(target):
    assert target in TARGETS


@pytest.mark.parametrize("page", ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_every_make_target_of_another_page_exists(page):
    named = set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", (ROOT / page).read_text(), re.MULTILINE))
    assert "audit" in named
    assert named <= TARGETS


@pytest.mark.parametrize(
    ("job", "line"), [(job, line) for job, line in OURS if re.search(r" --[a-z]", line)]
)
def test_every_setting_it_shows_is_one(job, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my.toml").write_text("steps = 3\n")
    latest = Path(f"runs/{job}-latest")
    latest.mkdir(parents=True)
    (latest / "config.toml").write_text("steps = 3\n")
    given = line.split(f"{job}.py", 1)[-1] if "python" in line else line
    quoted = re.search(r'ARGS="([^"]*)"', line)
    flags = (quoted.group(1) if quoted else given.split("#")[0].strip(" `")).split()
    if flags == ["--help"]:
        return  # run by test_cli, in a process of its own
    assert isinstance(parse(JOBS[job], flags), JOBS[job])


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:gfn_ray|docs|jobs)/[\w./]*)`", README)))
)
def test_every_path_it_points_to_is_there(path):
    assert (ROOT / path).exists()
