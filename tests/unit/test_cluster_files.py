"""Settings, scripts and the image in clusters/, and the versions that all files there name.

What a check refuses is shown beside it: a misspelt setting, a wrong type, a version that is not the
lock's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gfn_ray import __version__
from gfn_ray.cli import parse
from gfn_ray.sampling.architectures import choose_sync
from gfn_ray.tasks.arithmetic.config import ArithmeticJob
from gfn_ray.tasks.continuation.config import ContinuationJob
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tasks.random_number.config import RandomNumberJob
from gfn_ray.tasks.subjectivity.config import SubjectivityJob

ROOT = Path(__file__).resolve().parents[2]
CLUSTERS = ROOT / "clusters"
LOCK = (ROOT / "requirements" / "gpu.lock").read_text()
KUBERAY = yaml.safe_load((Path(__file__).parent / "cluster_fields.yaml").read_text())["kuberay"]
SETTINGS = sorted((CLUSTERS / "settings").glob("*.toml"))
SCRIPTS = [*sorted(CLUSTERS.rglob("*.sh")), CLUSTERS / "slurm" / "ray.sbatch"]


def locked(package: str, lock: str = LOCK) -> str:
    found = re.search(rf"^{re.escape(package)}==(\S+)$", lock, re.MULTILINE)
    assert found, f"{package} is in no lock"
    return found.group(1)


def stray_versions(text: str, ray: str, ours: str) -> list[str]:
    """Versions of Ray, image tags and releases of KubeRay in a text that are not the ones meant."""
    expected = {
        r"rayVersion: \"([^\"]*)\"": ray,
        r"/gfn-ray:([\w.-]+?)-(?:gpu|cpu)\b": f"{ours}-ray{ray}",
        r"ref=v([\d.]+\d)": KUBERAY,
        r"KubeRay (\d[\d.]*\d)": KUBERAY,
    }
    return [
        found
        for pattern, version in expected.items()
        for found in re.findall(pattern, text)
        if found != version
    ]


VERSIONED = [*sorted(CLUSTERS.rglob("*.yaml")), CLUSTERS / "README.md", ROOT / "docs/clusters.md"]


@pytest.mark.parametrize("file", VERSIONED, ids=lambda file: file.name)
def test_versions_are_those_of_the_locks(file: Path) -> None:
    assert stray_versions(file.read_text(), locked("ray"), __version__) == []


def test_a_version_that_is_not_the_locks_is_noticed() -> None:
    text = (CLUSTERS / "kuberay" / "rayjob.yaml").read_text()
    noticed = stray_versions(text, "2.61.0", __version__)
    assert noticed == ["2.60.0", f"{__version__}-ray2.60.0"]
    assert stray_versions(text, locked("ray"), "9.9") == [f"{__version__}-ray{locked('ray')}"]


def test_both_locks_have_the_same_ray_and_it_is_installed_here() -> None:
    import ray

    cpu = (ROOT / "requirements" / "cpu.lock").read_text()
    assert locked("ray", cpu) == locked("ray") == ray.__version__


JOBS = {
    "arithmetic": ArithmeticJob,
    "continuation": ContinuationJob,
    "random_number": RandomNumberJob,
    "subjectivity": SubjectivityJob,
}


@pytest.mark.parametrize("file", SETTINGS, ids=lambda file: file.stem)
def test_settings_are_read_by_every_job(file: Path, tmp_path: Path) -> None:
    config = parse(InfillJob, ["--config", str(file)])
    # Ray's head offers no CPUs, so the smallest machine would give each actor one thread.
    assert "auto" not in (config.sampler.threads, config.reward.threads, config.learner.threads)
    if config.model.name != "smollm2-135m":
        assert config.base_tuning is None  # it would run on the head, which has no GPU
        assert config.runtime.device == "cuda"  # refused where no GPU is up, not slow on CPUs
        assert config.learner.dtype == config.reward.dtype == "bfloat16"
    common = tmp_path / "common.toml"
    common.write_text(re.sub(r"\[tune_base\]\nsteps = 0\n", "", file.read_text()))
    for job in JOBS.values():
        assert parse(job, ["--config", str(common)]).model == config.model


def test_there_are_settings_for_five_sizes() -> None:
    assert {file.stem for file in SETTINGS} == {"135m", "1b", "gptj-6b", "8b", "70b"}


@pytest.mark.parametrize(
    ("written", "complaint"),
    [("sampler", "unknown setting samplr"), ("threads = 4", "learner.thread"), ("500", "steps")],
)
def test_a_misspelt_setting_and_a_wrong_type_are_refused(
    written: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled = {"sampler": "samplr", "threads = 4": "thread = 4", "500": '"many"'}
    text = (CLUSTERS / "settings" / "8b.toml").read_text()
    before = "[sampler]" if written == "sampler" else written
    after = before.replace(written, spoiled[written])
    head, found, tail = text.rpartition(before)
    assert found
    file = tmp_path / "8b.toml"
    file.write_text(head + after + tail)
    with pytest.raises(SystemExit) as refused:
        parse(InfillJob, ["--config", str(file)])
    assert refused.value.code == 2
    assert complaint in capsys.readouterr().err


def test_gptj_for_which_vllm_has_no_lora_takes_merged_weights() -> None:
    config = parse(InfillJob, ["--config", str(CLUSTERS / "settings" / "gptj-6b.toml")])
    assert config.sampler.backend == "vllm"
    assert choose_sync(config.policy.sync, ["GPTJForCausalLM"]) == "merged"


def checker(name: str) -> str:
    """One of the locks' tools, beside the Python that runs this."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found, f"{name} is missing; run make setup"
    return found


def complaints(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_finds_nothing_in_a_script(script: Path) -> None:
    assert complaints(checker("shellcheck"), "--shell=bash", script) == ""


def test_shellcheck_finds_a_name_that_nobody_sets(tmp_path: Path) -> None:
    text = (CLUSTERS / "slurm" / "ray.sbatch").read_text()
    spoiled = tmp_path / "ray.sbatch"
    spoiled.write_text(text.replace('wait "$run"', 'wait "$runs"'))
    assert "SC2154" in complaints(checker("shellcheck"), "--shell=bash", spoiled)


DOCKERFILE = CLUSTERS / "docker" / "Dockerfile"


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    assert complaints(checker("hadolint"), DOCKERFILE) == ""


@pytest.mark.parametrize(("written", "spoiled"), [("COPY", "COPPY"), ("3.11-slim", "latest-slim")])
def test_hadolint_finds_a_misspelt_instruction_and_no_version(
    written: str, spoiled: str, tmp_path: Path
) -> None:
    text = DOCKERFILE.read_text()
    assert written in text
    file = tmp_path / "Dockerfile"
    file.write_text(text.replace(written, spoiled).replace(":latest-slim-bookworm", ":latest"))
    assert complaints(checker("hadolint"), file)


def test_the_image_has_the_python_of_the_locks() -> None:
    (image,) = re.findall(r"^FROM python:(\d+\.\d+)-", DOCKERFILE.read_text(), re.MULTILINE)
    for lock in (ROOT / "requirements").glob("*.lock"):
        assert f"--python-version {image} " in lock.read_text().splitlines()[0]


def copied() -> list[str]:
    """Files and folders of the repository that the image gets."""
    lines = re.findall(r"^COPY --chown=\S+ (.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def test_the_jobs_of_the_image_need_nothing_that_it_has_not(tmp_path: Path) -> None:
    sources = copied()
    assert {"jobs", "gfn_ray", "clusters", "requirements"} <= set(sources)
    let_through = re.findall(
        r"^!(\S+)$", DOCKERFILE.with_name("Dockerfile.dockerignore").read_text(), re.MULTILINE
    )
    for source in sources:
        assert any(Path(source).is_relative_to(one) for one in let_through), source
        target = tmp_path / source
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, dirs_exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, target)
    done = subprocess.run(
        [sys.executable, tmp_path / "jobs" / "infill.py", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "--samplers" in done.stdout
