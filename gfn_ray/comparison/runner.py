"""Runs the cells of a comparison one after another, each as a job in a process of its own.

Owns the order, what is finished already, the time limit of a cell, and what a cell leaves beside
its run: cell.json, with the command, the commit and the seconds.
"""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gfn_ray.comparison.cells import Cell, cells_at, trials
from gfn_ray.comparison.results import SUMMARY, chosen_rate, is_done
from gfn_ray.comparison.sections import Section
from gfn_ray.errors import EXIT_USER_ERROR, RunFailed, UserError
from gfn_ray.formatting import count, duration
from gfn_ray.storage.atomic import atomic_file

# A run told to stop finishes its calls and writes a checkpoint.
GRACE_S = 120.0
ABOUT = "cell.json"


def left(sections: Sequence[Section], root: Path) -> Iterator[Cell]:
    """The cells without a run, as far as learning rates are decided."""
    for section in sections:
        for method in section.methods:
            yield from (cell for cell in trials(section, method) if not is_done(cell, root))
            if (rate := chosen_rate(section, method, root)) is not None or not method.rates:
                cells = cells_at(section, method, rate)
                yield from (cell for cell in cells if not is_done(cell, root))


def undecided(sections: Sequence[Section], root: Path) -> int:
    """Number of cells that wait for their learning rate."""
    return sum(
        len(section.seeds)
        for section in sections
        for method in section.methods
        if method.rates and chosen_rate(section, method, root) is None
    )


def run_cells(
    sections: Sequence[Section], root: Path, minutes: float, say: Callable[[str], None]
) -> None:
    """Runs what is left. A cell that fails is left out and said; at the end RunFailed."""
    failed: set[str] = set()
    seconds: list[float] = []
    while cells := [cell for cell in left(sections, root) if cell.name not in failed]:
        cell = cells[0]
        open_cells = len(cells) + undecided(sections, root)
        mean = sum(seconds) / len(seconds) if seconds else None
        when = "" if mean is None else f", about {duration(mean * open_cells)}"
        say(f"{count(open_cells, 'run')} left{when}: {cell.name}")
        started = time.monotonic()
        if (fault := run_cell(cell, root, minutes * 60)) is not None:
            failed.add(cell.name)
            say(f"{cell.name} failed: {fault}")
            continue
        seconds.append(time.monotonic() - started)
    if failed:
        raise RunFailed(
            f"{count(len(failed), 'run')} of the comparison failed, the first {sorted(failed)[0]}; "
            "the same command tries them again"
        )


def run_cell(cell: Cell, root: Path, limit_s: float) -> str | None:
    """Runs one cell, or goes on with it; returns why it failed. Raises UserError where its settings
    are refused."""
    directory = cell.directory(root)
    directory.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "gfn_ray", cell.section.job, *cell.words]
    where = ["--run-dir", str(directory), "--resume", "auto"]
    log = directory.with_suffix(".log")
    started = time.monotonic()
    with log.open("ab") as out:
        process = subprocess.Popen([*command, *where], stdout=out, stderr=out)
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return f"it took longer than --cell-minutes allows ({limit_s / 60:g}); see {log}"
        finally:
            _end(process)
    if code == EXIT_USER_ERROR:
        raise UserError(f"{cell.name}: {_last_line(log)}")
    if code or not (directory / SUMMARY).exists():
        return f"exit code {code}: {_last_line(log)}"
    about = {
        "command": shlex.join(["gfn-ray", cell.section.job, *cell.words]),
        "commit": _commit(),
        "seconds": time.monotonic() - started,
    }
    with atomic_file(directory / ABOUT) as temp:
        temp.write_text(json.dumps(about, indent=1), encoding="utf-8")
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stops a process that is still there, as an interrupt at the keyboard would."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _commit() -> str:
    """The commit that ran, marked where files differ from it; empty outside of a repository."""
    here = Path(__file__).parent
    told = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    found = subprocess.run(told, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else ""
