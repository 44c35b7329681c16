"""`make ray-up`, `make submit`, `make ray-down`: a job on a Ray that is already there."""

import json
import os
import subprocess
from ipaddress import IPv4Address, IPv6Address, ip_address

import psutil
import pytest

from gfn_ray.cli import parse
from gfn_ray.tasks.infill.config import InfillJob
from testing.job_runner import LIMIT, ROOT, merged_base, run, summary, tiny_infill_flags
from testing.policies import assert_merged

pytestmark = [pytest.mark.alone, pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MAKEFLAGS")}
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


@pytest.fixture
def cluster():
    if any("raylet" in process.name() for process in psutil.process_iter()):
        pytest.skip("another Ray runs on this machine, and `make ray-down` would end it")
    started = make("ray-up")
    assert started.returncode == 0, started.stderr
    yield
    assert make("ray-down").returncode == 0


def listening_addresses() -> set[IPv4Address | IPv6Address]:
    """Addresses that Ray's processes accept connections on."""
    servers = ("raylet", "gcs_server", "dashboard")
    found = set()
    for process in psutil.process_iter():
        try:
            if any(name in " ".join(process.cmdline()) for name in servers):
                found |= {
                    ip_address(connection.laddr.ip)
                    for connection in process.net_connections(kind="tcp")
                    if connection.status == psutil.CONN_LISTEN
                }
        except psutil.Error:  # it ended meanwhile, is a zombie, or somebody else's
            continue
    return found


def test_a_submitted_synchronous_run_on_a_tuned_base_with_two_of_each(
    cluster, tiny_dir, tmp_path, monkeypatch
):
    """It never lags, and every port stays on loopback."""
    monkeypatch.setenv("GFN_RAY_CACHE", str(tmp_path / "cache"))
    tuned = tuned_base(tiny_dir, tmp_path)
    flags = tiny_infill_flags(
        tiny_dir,
        tmp_path,
        task__base_adapter=tuned["adapter"],
        task__copy_penalty=5,
        task__length_prior="training",
        sft__steps=2,
        max_staleness=0,
        samplers=2,
        reward_actors=2,
        runtime__cpus_per_actor=0.2,
        replay__seed_demonstrations="true",
        replay__priority="loss",
        task__terminable="every",
        objective__subtb_lambda=0.9,
        learner__publish_every=4,  # 6 updates, a checkpoint every 2: versions at 2, 4 and 6
    )
    result = make("submit", "JOB=jobs/infill.py", f"ARGS={' '.join(flags)}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "succeeded" in result.stdout
    written = summary(tmp_path)
    assert written["steps"] == 6
    assert written["max_staleness_seen"] == 0
    assert written["policy_versions"] == 5  # two of them before and after the SFT
    assert written["base_adapter"] == tuned["adapter"]
    assert_merged(merged_base(tmp_path), tiny_dir)
    stored = parse(InfillJob, ["--config", str(tmp_path / "run" / "config.toml")])
    assert stored == parse(InfillJob, flags)
    addresses = listening_addresses()
    assert addresses
    for address in addresses:
        assert (getattr(address, "ipv4_mapped", None) or address).is_loopback


def tuned_base(model, home):
    """The summary of a finished run of tune_base."""
    settings = {
        "model.name": model,
        "run-dir": home / "tuned",
        "tracking.uri": f"sqlite:///{home / 'mlflow.db'}",
        "steps": 10,
        "lr": "1e-2",
        "policy.lora-rank": 8,
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    code, out, err = run(flags, home, "tune_base")
    assert code == 0, err
    assert "update 10/10 | loss" in out
    tuned = json.loads((home / "tuned" / "summary.json").read_text())
    assert tuned["after"]["perplexity"] < 0.8 * tuned["before"]["perplexity"]
    return tuned


def test_submit_without_a_job_says_what_is_missing():
    result = make("submit")
    assert result.returncode == 2
    assert "JOB=jobs/infill.py" in result.stderr
