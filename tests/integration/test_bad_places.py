"""Places that a job cannot use, or that another has: exit 2, one sentence, nothing left behind."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from gfn_ray.runs.run_dir import RunDir
from gfn_ray.runtime.resources.ray_address import check_answers
from testing.good_run import write_run
from testing.job_runner import JOBS, tiny_number_flags
from testing.refusals import check, contents
from testing.sockets import free_ports

LIMIT_S = 120  # of a job that is refused; it loads torch and a tiny model


def job(name: str, flags: list[str], home: Path, **variables: str) -> str:
    """The one line that a job is refused with; its phases before that are on stdout."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, str(JOBS / f"{name}.py"), *flags],
        cwd=home,
        env={**environment, "GFN_RAY_HOME": str(home), **variables},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    return check(done.returncode, done.stderr)


@pytest.fixture
def refusing_port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port with a web server on it that is neither MLflow's nor Ray's."""

    class Mute(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing on this test's stderr."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mute) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_run_that_another_process_works_on_is_not_resumed(tiny_dir: Path, tmp_path: Path) -> None:
    write_run(tiny_dir, tmp_path)._lock.release()
    holder = RunDir.reopen(tmp_path / "run")
    before = contents(tmp_path)
    line = job("random_number", ["--resume", str(holder.path)], tmp_path)
    assert f"{holder.path} is in use by another job" in line and "--run-dir" in line
    assert contents(tmp_path) == before


def test_a_ray_address_where_nobody_listens_is_refused_before_anything_is_written(
    refusing_port: int, tiny_dir: Path, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{refusing_port}"
    flags = tiny_number_flags(tiny_dir, tmp_path)
    line = job("random_number", flags, tmp_path, RAY_ADDRESS=address)
    assert f"RAY_ADDRESS is {address!r}" in line and "Connection refused" in line
    assert contents(tmp_path) == {}


def test_a_port_that_nobody_or_another_program_has_is_told_from_rays(
    refusing_port: int, taken_port: int
) -> None:
    with pytest.raises(ConnectionError, match="Connection refused"):
        check_answers(f"127.0.0.1:{refusing_port}")
    with pytest.raises(ConnectionError, match="another program listens there"):
        check_answers(f"127.0.0.1:{taken_port}")


def test_ray_client_is_refused_with_what_to_do_instead(tiny_dir: Path, tmp_path: Path) -> None:
    flags = tiny_number_flags(tiny_dir, tmp_path)
    line = job("random_number", flags, tmp_path, RAY_ADDRESS="ray://127.0.0.1:10001")
    assert "Ray Client" in line and "ray job submit" in line
    assert contents(tmp_path) == {}


@pytest.mark.ray
def test_a_cluster_that_is_there_answers() -> None:
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        check_answers(ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()


def test_a_tracking_port_that_another_program_has_leaves_no_run_behind(
    taken_port: int, tiny_dir: Path, tmp_path: Path
) -> None:
    uri = f"http://127.0.0.1:{taken_port}"
    flags = ["--model.name", str(tiny_dir), "--tracking.uri", uri, "--steps", "1"]
    line = job("tune_base", [*flags, "--run-dir", str(tmp_path / "run")], tmp_path)
    assert f"--tracking.uri got {uri}" in line
    assert contents(tmp_path) == {}
