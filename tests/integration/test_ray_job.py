"""`make ray-up`, `make submit`, `make ray-down`: a job on a Ray that is already there."""

import os
import subprocess
from ipaddress import IPv4Address, IPv6Address, ip_address

import psutil
import pytest

from job_runner import LIMIT, ROOT, summary, tiny_infill_flags

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]


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


def test_a_submitted_job_runs_and_every_port_stays_on_loopback(cluster, tiny_dir, tmp_path):
    flags = " ".join(tiny_infill_flags(tiny_dir, tmp_path))
    result = make("submit", "JOB=jobs/infill.py", f"ARGS={flags}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "succeeded" in result.stdout
    assert summary(tmp_path)["steps"] == 6
    addresses = listening_addresses()
    assert addresses
    for address in addresses:
        assert (getattr(address, "ipv4_mapped", None) or address).is_loopback


def test_submit_without_a_job_says_what_is_missing():
    result = make("submit")
    assert result.returncode == 2
    assert "JOB=jobs/infill.py" in result.stderr
