"""Scripts of clusters/ with stand-ins for what only a cluster has: who is called, with what, and
when a run is resumed or put back into the queue."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from testing.victim import await_true

CLUSTERS = Path(__file__).resolve().parents[2] / "clusters"
LIMIT = 60

# Notes down how it was called.
STANDS_IN = '#!/bin/bash\nprintf "%s %s\\n" "${0##*/}" "$*" >>"$CALLS"\n'

# A job in Python: it says where it wrote, and ends as a run does that is asked to stop.
JOB = """#!/bin/bash
printf "%s %s\\n" "${0##*/}" "$*" >>"$CALLS"
trap 'echo "a checkpoint" >>"$CALLS"; exit 130' TERM
if [[ -n ${LASTING:-} ]]; then
  touch "$CALLS.running"
  while :; do sleep 0.05; done
fi
exit "${ENDS_WITH:-0}"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A copy of the scripts, and of what they call only its name."""
    shutil.copytree(CLUSTERS, tmp_path / "clusters")
    program(tmp_path / ".venv/bin/python", JOB)
    for name in (".venv/bin/ray", "bin/srun", "bin/scontrol", "bin/sudo", "bin/mountpoint"):
        program(tmp_path / name, STANDS_IN)
    return tmp_path


def program(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


def start(place: Path, *command: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", *command],
        cwd=place,
        env={
            "PATH": f"{place / 'bin'}:{place / '.venv/bin'}:{os.environ['PATH']}",
            "HOME": str(place),
            "CALLS": str(place / "calls"),
            **variables,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(place: Path, *command: str, **variables: str) -> tuple[int, str]:
    """Exit code, and what it complained of."""
    process = start(place, *command, **variables)
    _, complaint = process.communicate(timeout=LIMIT)
    return process.returncode, complaint


def calls(place: Path, who: str = "") -> list[str]:
    file = place / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    return [line for line in lines if line.startswith(who)]


def slurm(place: Path, **changes: str) -> dict[str, str]:
    """What Slurm tells a job of two nodes."""
    return {
        "SLURM_JOB_ID": "41",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_ON_NODE": "32",
        "GFN_RAY_HOME": str(place / "shared"),
        **changes,
    }


RUN = "python jobs/infill.py --steps 200 --run-dir {} --resume auto"
SBATCH = ("clusters/slurm/ray.sbatch", "jobs/infill.py", "--steps", "200")


def test_a_slurm_job_starts_a_head_and_the_other_nodes_and_runs(place: Path) -> None:
    code, complaint = run(place, *SBATCH, **slurm(place))
    assert code == 0, complaint
    head, others = sorted(calls(place, "srun"), key=lambda line: "--head" not in line)
    assert "--nodes 1 " in head and "ray start --head" in head and "--block" in head
    assert "--nodes 1 " in others and "--exclude" in others and "ray start --address" in others
    assert all("--cpus-per-task 32" in line for line in (head, others))
    assert any(line.startswith("ray status --address") for line in calls(place, "ray"))
    assert calls(place, "python") == [RUN.format(f"{place}/shared/runs/slurm-41")]
    assert (place / ".ray").stat().st_mode & 0o777 == 0o700
    assert calls(place, "scontrol") == []


def test_of_one_node_there_is_only_a_head(place: Path) -> None:
    assert run(place, *SBATCH, **slurm(place, SLURM_JOB_NUM_NODES="1"))[0] == 0
    assert len(calls(place, "srun")) == 1


def test_another_slurm_job_resumes_the_run_that_it_is_given(place: Path) -> None:
    assert run(place, *SBATCH, **slurm(place, RUN_DIR=str(place)))[0] == 0
    assert calls(place, "python") == [RUN.format(place)]


def interrupted(place: Path, what: signal.Signals, command: tuple[str, ...]) -> int:
    """Exit code of a Slurm job whose script gets a signal once its run is under way."""
    process = start(place, *command, **slurm(place, LASTING="yes"))
    await_true((place / "calls.running").exists, LIMIT, "the run does not begin")
    process.send_signal(what)
    process.communicate(timeout=LIMIT)
    return process.returncode


def test_before_the_time_limit_a_run_writes_a_checkpoint_and_goes_back_to_the_queue(
    place: Path,
) -> None:
    assert interrupted(place, signal.SIGUSR1, SBATCH) == 130
    assert calls(place)[-2:] == ["a checkpoint", "scontrol requeue 41"]


def test_a_cancelled_run_writes_a_checkpoint_and_is_over(place: Path) -> None:
    assert interrupted(place, signal.SIGTERM, SBATCH) == 130
    assert calls(place)[-1] == "a checkpoint"


@pytest.mark.parametrize(("lacking", "words"), [("job", "say which job"), ("home", "GFN_RAY_HOME")])
def test_what_a_slurm_job_lacks_is_said_before_anything_starts(
    lacking: str, words: str, place: Path
) -> None:
    command = SBATCH if lacking == "home" else SBATCH[:1]
    variables = slurm(place, GFN_RAY_HOME="" if lacking == "home" else str(place))
    code, complaint = run(place, *command, **variables)
    assert (code, calls(place)) == (2, [])
    assert words in complaint


def test_the_head_of_a_cloud_shares_its_directory_with_private_addresses_only(place: Path) -> None:
    program(place / "bin/sudo", '#!/bin/bash\n[[ $1 == tee ]] && cat >"$HOME/exports"; exit 0\n')
    assert run(place, "clusters/vm.sh", "head")[0] == 0
    exported = [line.split()[1] for line in (place / "exports").read_text().splitlines()]
    assert len(exported) == 3
    assert all(one.startswith(("10.", "172.16.", "192.168.")) for one in exported)
    stop, started = calls(place, "ray")
    assert stop.strip() == "ray stop"
    assert "--head" in started and "--num-cpus 0" in started and "127.0.0.1" in started


def test_a_worker_of_a_cloud_mounts_that_directory_and_joins(place: Path) -> None:
    program(place / "bin/mountpoint", "#!/bin/bash\nexit 1\n")
    assert run(place, "clusters/vm.sh", "worker", "10.0.0.7")[0] == 0
    assert "sudo mount -t nfs 10.0.0.7:/mnt/gfn_ray /mnt/gfn_ray" in calls(place)
    assert calls(place)[-1] == "ray start --address 10.0.0.7:6379"


@pytest.mark.parametrize("words", [("worker",), (), ("heads",)])
def test_what_a_machine_is_told_wrongly_is_refused(words: tuple[str, ...], place: Path) -> None:
    code, complaint = run(place, "clusters/vm.sh", *words)
    assert code != 0
    assert complaint.startswith(("vm.sh", "clusters/vm.sh"))
    assert calls(place) == []
