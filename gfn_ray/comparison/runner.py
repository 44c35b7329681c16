"""Runs the cells of a comparison one after another, each as a job in a process of its own.

Owns the order, what is left and how long it takes, the time limit of a cell, and that a cell leaves
a record.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gfn_ray.comparison.cells import Cell, cells_at, trials
from gfn_ray.comparison.records import SUMMARY, Records, record_of
from gfn_ray.comparison.results import chosen_rate
from gfn_ray.comparison.section import Section
from gfn_ray.errors import EXIT_USER_ERROR, RunFailed, UserError
from gfn_ray.formatting import count, duration

# A run told to stop finishes its calls and writes a checkpoint.
GRACE_S = 120.0


def left(section: Section, records: Records) -> Iterator[Cell]:
    """The cells without a record, as far as learning rates are decided."""
    for method in section.methods:
        yield from (cell for cell in trials(section, method) if cell not in records)
        if (rate := chosen_rate(section, method, records)) is not None or not method.rates:
            cells = cells_at(section, method, rate)
            yield from (cell for cell in cells if cell not in records)


def runs_left(section: Section, records: Records) -> int:
    """Number of those, and of the cells that wait for their learning rate."""
    waiting = sum(
        len(section.seeds)
        for method in section.methods
        if method.rates and chosen_rate(section, method, records) is None
    )
    return len(list(left(section, records))) + waiting


def seconds_left(section: Section, records: Records) -> float:
    """By the section's finished runs, or what is known of it."""
    return runs_left(section, records) * (records.mean_seconds(section.slug) or section.about_s)


def run_cells(
    sections: Sequence[Section],
    root: Path,
    records: Records,
    minutes: float,
    say: Callable[[str], None],
) -> None:
    """Runs what is left. A cell that fails is left out and said; at the end RunFailed."""
    failed: set[str] = set()
    for section in sections:
        if runs := runs_left(section, records):
            about = duration(seconds_left(section, records))
            say(f"{section.slug}: {count(runs, 'run')} left, about {about}")
    while cell := _next(sections, records, failed):
        runs = sum(runs_left(one, records) for one in sections)
        about = duration(sum(seconds_left(one, records) for one in sections))
        say(f"{count(runs, 'run')} left, about {about}: {cell.name}")
        if (fault := run_cell(cell, root, records, minutes * 60)) is not None:
            failed.add(cell.name)
            say(f"{cell.name} failed: {fault}")
    if failed:
        raise RunFailed(
            f"{count(len(failed), 'run')} of the comparison failed, the first {sorted(failed)[0]}; "
            "the same command tries them again"
        )


def _next(sections: Sequence[Section], records: Records, failed: set[str]) -> Cell | None:
    cells = (cell for section in sections for cell in left(section, records))
    return next((cell for cell in cells if cell.name not in failed), None)


def run_cell(cell: Cell, root: Path, records: Records, limit_s: float) -> str | None:
    """Runs one cell, or goes on with it, and records it; returns why it failed. Raises UserError
    where its settings are refused."""
    directory = cell.directory(root)
    directory.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "gfn_ray", cell.section.job, *cell.words]
    where = ["--run-dir", str(directory), "--resume", "auto"]
    log = directory.with_suffix(".log")
    commit, started = _commit(), time.monotonic()
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
    typed = shlex.join(["gfn-ray", cell.section.job, *cell.words])
    records.add(cell, record_of(cell, directory, typed, commit, time.monotonic() - started))
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
    """The commit that runs, marked where files differ from it; empty outside of a repository."""
    here = Path(__file__).parent
    told = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    found = subprocess.run(told, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else ""
