"""A Ray cluster that clusters/local.sh starts: no token, no job; and scripts of clusters/ on it."""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

from testing.job_runner import LIMIT, ROOT
from testing.sockets import free_ports, listening
from testing.victim import await_true

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RAY = str(Path(sys.executable).with_name("ray"))
UNSET = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


# Says that it runs, and writes what a run would where it is asked to stop.
INTERRUPTIBLE = """
import pathlib, signal, sys
place = pathlib.Path(sys.argv[1])
def stop(*_):
    place.joinpath("checkpoint").touch()
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
place.joinpath("running").touch()
while True:
    signal.pause()
"""


def ray(*words, home, **variables):
    """One command of Ray's, of a person whose home is there."""
    return command(RAY, *words, home=home, **variables)


def command(*words, home, **variables):
    """One command of that person's."""
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    return subprocess.run(
        words,
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


def workers(place):
    """The cluster's own processes: `ray stop` would end those of every other one as well."""
    found = set()
    for process in psutil.process_iter():
        try:
            if place in " ".join(process.cmdline()):
                found |= {process, *process.children(recursive=True)}
        except psutil.Error:  # it ended meanwhile, or is a zombie
            continue
    return found


@dataclass(frozen=True)
class Cluster:
    """place: where Ray keeps its files. jobs: the address that takes jobs. head: that of its nodes.
    agent: where a probe asks whether the node is well."""

    place: str
    jobs: str
    head: str
    agent: str


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Of the person who starts the cluster."""
    return tmp_path_factory.mktemp("owner")


@pytest.fixture(scope="module")
def cluster(home):
    """A cluster that asks for a token."""
    place = tempfile.mkdtemp(prefix="ray-")  # short: a socket's path has 107 characters at most
    port, client, dashboard, agent = map(str, free_ports(4))
    try:
        started = command(
            *("bash", str(ROOT / "clusters" / "local.sh")),
            *("--port", port, "--ray-client-server-port", client, "--dashboard-port", dashboard),
            *("--dashboard-agent-listen-port", agent, "--temp-dir", place, "--num-cpus", "1"),
            *("--object-store-memory", str(100 << 20)),
            home=home,
        )
        assert started.returncode == 0, started.stdout + started.stderr
        yield Cluster(
            place,
            f"http://127.0.0.1:{dashboard}",
            f"127.0.0.1:{port}",
            f"http://127.0.0.1:{agent}",
        )
    finally:
        for process in workers(place):
            process.kill()
        shutil.rmtree(place, ignore_errors=True)


def submit(address, home, **variables):
    words = ("job", "submit", "--address", address, "--", "python", "-c", "print(40 + 2)")
    return ray(*words, home=home, **variables)


def test_a_job_with_the_token_runs(cluster, home):
    done = submit(cluster.jobs, home, RAY_AUTH_MODE="token")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n42\n" in done.stdout


def test_a_job_without_the_token_is_refused(cluster, tmp_path):
    done = submit(cluster.jobs, tmp_path, RAY_AUTH_MODE="disabled")
    assert done.returncode != 0
    assert "Missing authentication token" in done.stderr
    assert "42" not in done.stdout


def test_another_token_is_refused(cluster):
    """Ray's own way to list and submit jobs, which its command uses."""
    jobs, owners = f"{cluster.jobs}/api/jobs/", {"Authorization": "Bearer guessed"}
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(jobs, headers=owners), timeout=60)
    assert refused.value.code == 403


def test_every_port_of_the_cluster_is_on_loopback(cluster):
    found = listening(workers(cluster.place))
    assert any("gcs_server" in name for name in found)
    assert all(one.is_loopback for addresses in found.values() for one in addresses)


def test_no_other_account_can_read_the_token_that_is_made(cluster, home):
    assert (home / ".ray").stat().st_mode & 0o777 == 0o700


def test_a_run_is_submitted_as_the_page_says_and_refused_for_want_of_its_model(cluster, home):
    """The folder goes along, settings files and all."""
    run = ("python", "jobs/infill.py", "--config", "clusters/settings/8b.toml")
    words = ("job", "submit", "--address", cluster.jobs, "--working-dir", str(ROOT), "--", *run)
    done = ray(*words, home=home, RAY_AUTH_MODE="token")
    assert done.returncode != 0
    assert "error: --model.name: no directory '/mnt/gfn_ray/models/" in done.stdout


def test_a_probe_needs_no_token(cluster):
    """Of pods, as clusters/kuberay has them; kubelet has none."""
    with urlopen(f"{cluster.agent}/api/healthz", timeout=60) as answer:
        assert answer.status == 200


def test_a_job_is_stopped_with_a_checkpoint_before_its_node_ends(cluster, home, tmp_path):
    script = str(ROOT / "clusters" / "stop_jobs.py")
    access = {"RAY_AUTH_MODE": "token", "RAY_API_SERVER_ADDRESS": cluster.jobs}
    (tmp_path / "job.py").write_text(INTERRUPTIBLE)
    job = (sys.executable, str(tmp_path / "job.py"), str(tmp_path))
    given = ray("job", "submit", "--no-wait", "--", *job, home=home, **access)
    assert given.returncode == 0, given.stdout + given.stderr
    await_true((tmp_path / "running").exists, 60, "the job does not run")
    done = command(sys.executable, script, "60", home=home, **access)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "checkpoint").exists()
    assert command(sys.executable, script, "60", home=home, **access).returncode == 0  # none runs
