"""Which Python 3.11 set-up takes; stand-ins for Python and uv give the answers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("awk", "bash", "cat", "cut", "df", "dirname", "grep", "head", "mkdir", "rm", "sed",
         "sha256sum", "tail", "tee", "touch", "uname")  # fmt: skip

# Says that it is a Python 3.11, and makes no environment: set-up ends there.
PYTHON = """#!/bin/bash
case "$*" in
  *_base_executable*) echo "$0" ;;
  *ensurepip*) exit {venv} ;;
  *Python.h*) [[ -e "${{0%/*}}/Python.h" ]] ;;
  --version) echo "Python 3.11.9" ;;
  *) exit 1 ;;
esac
"""

# Has a Python once it was told to install one, where it can.
UV = """#!/bin/bash
echo "$*" >>"{home}/asked"
case "$*" in
  "python find --no-project --system 3.11") [[ -e {home}/python ]] && echo {home}/python ;;
  "python install 3.11")
    {network} || {{ echo "error: Failed to download cpython-3.11" >&2; exit 2; }}
    cp {home}/download {home}/python ;;
  *) exit 3 ;;
esac
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A copy of what set-up reads, and a PATH that has all it calls but python3.11 and uv."""
    place = tmp_path / "copy"
    (place / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup.sh", place / "scripts")
    shutil.copytree(ROOT / "requirements", place / "requirements")
    shutil.copy(ROOT / "pyproject.toml", place)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / "bin" / tool).symlink_to(found)
    program(tmp_path / "download", PYTHON.format(venv=0))
    return tmp_path


def program(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    return file


def set_up(home: Path, profile: str = "cpu") -> tuple[str, str]:
    """What it says, and what it complains of. It never comes to its end."""
    done = subprocess.run(
        ["bash", str(home / "copy" / "scripts" / "setup.sh")],
        env={"PATH": str(home / "bin"), "HOME": str(home), "PROFILE": profile},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    return done.stdout, done.stderr


def asked(home: Path) -> list[str]:
    file = home / "asked"
    return file.read_text().splitlines() if file.exists() else []


def test_an_interpreter_that_is_there_is_taken_and_uv_is_not_asked(home: Path) -> None:
    program(home / "bin" / "python3.11", PYTHON.format(venv=0))
    program(home / "bin" / "uv", UV.format(home=home, network="true"))
    said, _ = set_up(home)
    assert said.startswith("setup: cpu profile, Python 3.11.9, new .venv;")
    assert asked(home) == []


@pytest.mark.parametrize("place", ["bin", ".local/bin"])
@pytest.mark.parametrize("lacking", ["was not found", "lacks its venv module"])
def test_where_it_is_missing_or_half_there_that_of_uv_is_taken(
    lacking: str, place: str, home: Path
) -> None:
    if lacking != "was not found":
        program(home / "bin" / "python3.11", PYTHON.format(venv=1))
    (home / "download").rename(home / "python")
    program(home / place / "uv", UV.format(home=home, network="false"))
    said, _ = set_up(home)
    first, second, *_ = said.splitlines()
    assert first == f"setup: python3.11 {lacking}; taking uv's ({home / 'python'})."
    assert second.startswith("setup: cpu profile, Python 3.11.9, new .venv;")
    assert asked(home) == ["python find --no-project --system 3.11"]


def test_uv_downloads_one_where_it_has_none(home: Path) -> None:
    program(home / "bin" / "uv", UV.format(home=home, network="true"))
    (home / "bin" / "cp").symlink_to(shutil.which("cp") or "")
    said, _ = set_up(home)
    assert f"taking uv's ({home / 'python'})." in said
    assert asked(home)[1] == "python install 3.11"


def test_a_download_that_fails_is_told_of_in_the_words_of_uv(home: Path) -> None:
    program(home / "bin" / "uv", UV.format(home=home, network="false"))
    said, complaint = set_up(home)
    assert said == ""
    assert (
        'could not download it ("error: Failed to download cpython-3.11"); check the' in complaint
    )
    assert "sudo apt install python3.11" in complaint


def test_without_either_uv_is_named_first_and_the_packages_after_it(home: Path) -> None:
    said, complaint = set_up(home)
    assert said == ""
    assert complaint.startswith("setup: python3.11 was not found; install uv")
    assert complaint.index("astral.sh/uv/install.sh") < complaint.index("apt install python3.11")
    assert not (home / "copy" / ".venv").exists()


def test_a_gpu_profile_says_what_the_machines_that_run_it_lack(home: Path) -> None:
    program(home / "bin" / "python3.11", PYTHON.format(venv=0))
    said, _ = set_up(home, "gpu")
    assert "no NVIDIA driver answers here; machines that run models need r580 or newer" in said
    assert "no C compiler" in said and "no Python.h" in said
    program(home / "bin" / "nvidia-smi", "#!/bin/bash\necho 570.86.10\n")
    said, _ = set_up(home, "gpu")
    assert "the NVIDIA driver is 570.86.10; install r580 or newer" in said


def test_a_gpu_profile_has_nothing_to_say_where_all_is_there(home: Path) -> None:
    program(home / "bin" / "python3.11", PYTHON.format(venv=0))
    program(home / "bin" / "nvidia-smi", "#!/bin/bash\necho 580.65.06\n")
    program(home / "bin" / "cc", "#!/bin/bash\n")
    (home / "bin" / "Python.h").touch()
    said, _ = set_up(home, "gpu")
    assert said.startswith("setup: gpu profile, Python 3.11.9, new .venv;")
