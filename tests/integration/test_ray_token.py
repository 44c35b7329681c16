"""A Ray cluster with token authentication, as SECURITY.md tells to start one: no token, no job."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

from testing.job_runner import LIMIT
from testing.sockets import free_ports, listening

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RAY = str(Path(sys.executable).with_name("ray"))
UNSET = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def ray(*words, home, **variables):
    """One command of Ray's, of a person whose home is there."""
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    return subprocess.run(
        [RAY, *words],
        env={
            **environment,
            "HOME": str(home),
            "PATH": f"{Path(RAY).parent}:{os.environ['PATH']}",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def members(place):
    """The cluster's own processes: `ray stop` would end those of every other one as well."""
    found = set()
    for process in psutil.process_iter():
        try:
            if place in " ".join(process.cmdline()):
                found |= {process, *process.children(recursive=True)}
        except psutil.Error:  # it ended meanwhile, or is a zombie
            continue
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Of the person who starts the cluster."""
    return tmp_path_factory.mktemp("owner")


@pytest.fixture(scope="module")
def cluster(home):
    """Where Ray keeps the files of a cluster that asks for a token, and its address."""
    assert ray("get-auth-token", "--generate", home=home).returncode == 0
    place = tempfile.mkdtemp(prefix="ray-")  # short: a socket's path has 107 characters at most
    port, client, dashboard, agent = map(str, free_ports(4))
    try:
        started = ray(
            *("start", "--head", "--node-ip-address", "127.0.0.1", "--dashboard-host", "127.0.0.1"),
            *("--port", port, "--ray-client-server-port", client, "--dashboard-port", dashboard),
            *("--dashboard-agent-listen-port", agent, "--temp-dir", place, "--num-cpus", "1"),
            *("--object-store-memory", str(100 << 20), "--disable-usage-stats"),
            home=home,
            RAY_AUTH_MODE="token",
        )
        assert started.returncode == 0, started.stdout + started.stderr
        yield place, f"http://127.0.0.1:{dashboard}"
    finally:
        for process in members(place):
            process.kill()
        shutil.rmtree(place, ignore_errors=True)


def submit(address, home, **variables):
    words = ("job", "submit", "--address", address, "--", "python", "-c", "print(40 + 2)")
    return ray(*words, home=home, **variables)


def test_a_job_with_the_token_runs(cluster, home):
    done = submit(cluster[1], home, RAY_AUTH_MODE="token")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n42\n" in done.stdout


def test_a_job_without_the_token_is_refused(cluster, tmp_path):
    done = submit(cluster[1], tmp_path, RAY_AUTH_MODE="disabled")
    assert done.returncode != 0
    assert "Missing authentication token" in done.stderr
    assert "42" not in done.stdout


def test_another_token_is_refused(cluster):
    """Ray's own way to list and submit jobs, which its command uses."""
    jobs, owners = f"{cluster[1]}/api/jobs/", {"Authorization": "Bearer guessed"}
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(jobs, headers=owners), timeout=60)
    assert refused.value.code == 403


def test_every_port_of_the_cluster_is_on_loopback(cluster):
    found = listening(members(cluster[0]))
    assert any("gcs_server" in name for name in found)
    assert all(one.is_loopback for addresses in found.values() for one in addresses)
