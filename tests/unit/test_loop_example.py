"""docs/examples/loop.py, as its reader runs it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "loop.py"
LIMIT_S = 120

# The file as a program, and what it has loaded by then.
RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    print("exit", end.code, sorted({"ray", "vllm"} & sys.modules.keys()))
"""


def test_the_loop_in_one_file_comes_close_to_the_uniform_distribution(tiny_dir):
    """Without Ray and vLLM."""
    flags = {
        "model.name": tiny_dir,
        "task.high": 9,
        "steps": 40,
        "policy.lora-rank": 8,
        "learner.lr": "1e-2",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(EXAMPLE), *words],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    *updates, last, end = done.stdout.splitlines()
    assert end == "exit 0 []", done.stderr
    assert [line.split(" | ")[0] for line in updates] == [f"update {n}" for n in (10, 20, 30, 40)]
    assert float(last.removeprefix("total variation ")) < 0.1


def test_it_can_be_read_in_one_sitting():
    assert len(EXAMPLE.read_text().splitlines()) <= 120
