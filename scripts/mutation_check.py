"""Do the tests bite? Puts deliberate bugs into a copy of the package, one at a time.

`make mutants` runs it. Each bug is one that trains a wrong posterior without an error, and some
test must fail on it by an assertion; a test that dies of anything else proves nothing. Exit status:
0 all were noticed, 1 one survived, 2 this check itself could not run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("gfn_ray", "testing", "tests", "pyproject.toml")
LIMIT_S = 300  # of one pytest run, which takes half a minute on one slow core

# .venv has gfn_ray installed in place, so each run first proves that it imports the copy.
GUARD = "tests/unit/test_imports_the_copy.py"
GUARD_TEXT = """\
from pathlib import Path

import gfn_ray


def test_the_package_is_the_copy():
    assert Path(gfn_ray.__file__).resolve().parents[1] == Path(__file__).resolve().parents[2]
"""


@dataclass(frozen=True)
class Mutation:
    """A bug: `old`, which stands in `file` exactly once, becomes `new`; `tests` should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def applied_to(self, source: str) -> str:
        found = source.count(self.old)
        if found != 1:
            raise CannotRun(
                f"{self.name}: expected this text once in {self.file}, found it {found} times: "
                f"{self.old.strip()!r}; update MUTATIONS in scripts/mutation_check.py"
            )
        return source.replace(self.old, self.new)


LOG_Q = ("tests/unit/test_policy.py",)
UPDATES = ("tests/unit/test_trainer.py",)
DRAWS = ("tests/unit/test_simulation.py",)
DISTANCES = ("tests/unit/test_calibration.py",)

MUTATIONS = (
    Mutation(
        "mask off by one: the support's row of prefix t rules prefix t+1",
        "gfn_ray/policy/log_q.py",
        "support.mask_rows(trajectory.token_ids).tolist()",
        "support.mask_rows(trajectory.token_ids)[[0, *range(len(trajectory))]].tolist()",
        LOG_Q,
    ),
    Mutation(
        "stop shifted: log q(stop) of prefix t is read at prefix t-1",
        "gfn_ray/policy/log_q.py",
        "torch.cat([probs.log_stop, zero])[nodes] * is_node",
        "torch.cat([probs.log_stop, zero])[nodes.roll(1, dims=1)] * is_node",
        LOG_Q,
    ),
    Mutation(
        "temperature twice: log R is divided by T_r squared",
        "gfn_ray/learners/policy_loss.py",
        "_log_reward(t) / temperature",
        "_log_reward(t) / temperature**2",
        UPDATES,
    ),
    Mutation(
        "padding counted: every padded position is a node",
        "gfn_ray/policy/log_q.py",
        "terminable = np.zeros((len(paths), longest), dtype=np.bool_)",
        "terminable = np.ones((len(paths), longest), dtype=np.bool_)",
        UPDATES,
    ),
    Mutation(
        "tool tokens counted: log q of a token that a tool wrote is not 0",
        "gfn_ray/policy/log_q.py",
        "by_policy[index, : len(trajectory)] = ~trajectory.tool_mask",
        "by_policy[index, : len(trajectory)] = True",
        LOG_Q,
    ),
    Mutation(
        "lengths without their prior: t of a simulated z is uniform whatever the target says",
        "gfn_ray/tasks/infill/simulation.py",
        "np.exp(self.log_lengths)",
        "np.exp(np.where(self.log_lengths > -np.inf, 0.0, -np.inf))",
        DRAWS,
    ),
    Mutation(
        "y again: an ending that fails is redrawn after the same z",
        "gfn_ray/tasks/infill/simulation.py",
        """if not ending.add(token):
            return Verdict.REJECTED""",
        """if not ending.add(token):
            return Verdict.GOES_ON""",
        DRAWS,
    ),
    Mutation(
        "the last draft for the first: log p of another draft goes with a simulated query",
        "gfn_ray/decoding/drafting.py",
        "simulated(float(log_p[first]))",
        "simulated(float(log_p[-1]))",
        DRAWS,
    ),
    Mutation(
        "weights left out: a draw that is not exact counts as one",
        "gfn_ray/evaluation/calibration.py",
        "targets[:, 0] - densities)",
        "0 * densities)",
        DISTANCES,
    ),
)


class CannotRun(Exception):
    """The check itself is at fault, or what it starts from."""


@dataclass(frozen=True)
class Outcome:
    """One pytest run: its exit status, the tests that ran, and the first that failed.

    by_assertion: that test said what is wrong, rather than die of an exception on its way.
    """

    status: int
    collected: int = 0
    failed: str = ""
    message: str = ""
    by_assertion: bool = False

    @property
    def killed(self) -> bool:
        return self.status == 1 and self.collected > 0 and self.by_assertion

    def __str__(self) -> str:
        if self.killed:
            return f"killed by {self.failed}"
        if self.failed:
            return f"SURVIVED: {self.failed} failed, but not by an assertion: {self.message}"
        return f"SURVIVED: pytest ended with status {self.status} after {self.collected} tests"


def read_outcome(status: int, report: str) -> Outcome:
    """The outcome in a JUnit report of pytest's."""
    # The report is that of our own pytest, run a moment ago.
    root = ElementTree.fromstring(report)  # nosec B314
    cases = list(root.iter("testcase"))
    for case in cases:
        for kind in ("failure", "error"):
            found = case.find(kind)
            if found is None:
                continue
            test = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
            message = found.get("message", "").strip()
            said = message.startswith(("assert ", "AssertionError", "Failed: DID NOT RAISE"))
            return Outcome(status, len(cases), test, message, kind == "failure" and said)
    return Outcome(status, len(cases))


def run_tests(copy: Path, tests: tuple[str, ...]) -> Outcome:
    """Runs the guard and these test files of a copy, up to the first failure."""
    (copy / GUARD).write_text(GUARD_TEXT)
    report = copy / "report.xml"
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    environment = {
        "OMP_NUM_THREADS": "1",  # models of two layers: more threads only get in each other's way
        **os.environ,
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        run = subprocess.run(
            [*command, f"--junitxml={report}", GUARD, *tests],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        raise CannotRun(f"{' '.join(tests)} took more than {LIMIT_S} s") from None
    if not report.is_file():
        raise CannotRun(f"pytest wrote no report; it ended with:\n{run.stdout}{run.stderr}")
    outcome = read_outcome(run.returncode, report.read_text())
    if outcome.failed.startswith(GUARD):
        raise CannotRun(f"the tests did not import the copy in {copy}: {outcome.message}")
    return outcome


def copied(parent: Path, name: str) -> Path:
    """A fresh copy of the package and its tests."""
    copy = parent / name
    copy.mkdir()
    for entry in COPIED:
        source = ROOT / entry
        if source.is_dir():
            shutil.copytree(source, copy / entry, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, copy / entry)
    return copy


def check(directory: Path) -> int:
    """Runs every mutation in copies below the directory; the number of those that survived."""
    sources = [(m, m.applied_to((ROOT / m.file).read_text())) for m in MUTATIONS]
    tests = tuple(dict.fromkeys(test for mutation in MUTATIONS for test in mutation.tests))
    sound = run_tests(copied(directory, "sound"), tests)
    if sound.status != 0 or sound.collected < 2:  # the guard and one more
        raise CannotRun(
            f"without a bug in it, {' '.join(tests)} must pass; status {sound.status} after "
            f"{sound.collected} tests: {sound.failed} {sound.message}"
        )
    survivors = 0
    for number, (mutation, source) in enumerate(sources, start=1):
        started = time.monotonic()
        copy = copied(directory, f"mutant-{number}")
        (copy / mutation.file).write_text(source)
        outcome = run_tests(copy, mutation.tests)
        survivors += not outcome.killed
        print(f"{mutation.name}: {outcome} ({time.monotonic() - started:.0f} s)", flush=True)
    return survivors


def main() -> int:
    try:
        with tempfile.TemporaryDirectory(prefix="gfn_ray-mutants-") as directory:
            return 1 if check(Path(directory).resolve()) else 0
    except CannotRun as error:
        print(f"mutation_check: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
