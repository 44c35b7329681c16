"""Formats numbers, times and foreign text for one line of output.

Also owns what happens to characters that a stream's encoding lacks.
"""

from __future__ import annotations

import io
from typing import TextIO

from rich.cells import cell_len

DOTS = "..."  # three full stops: every terminal and log has them
_LEAST_SHOWN = 8  # cells; less of a sentence than this is meaningless


def one_line(text: str) -> str:
    """The text without line ends, control codes and runs of spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def number(value: float | None) -> str:
    """Formats a number with three or four digits."""
    if value is None:
        return "-"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.3g}"


def count(amount: int, noun: str) -> str:
    """Formats a number with its noun: 1 update, 2,000 updates, 3 queries."""
    if amount == 1:
        return f"1 {noun}"
    return f"{amount:,} {noun[:-1]}ies" if noun.endswith("y") else f"{amount:,} {noun}s"


def byte_size(amount: float) -> str:
    """Formats bytes in a readable unit: 512 MiB, 3.1 GiB."""
    mib = amount / 2**20
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def head(text: str, cells: int) -> str:
    """The beginning of a text, in at most `cells` terminal cells; empty if too few."""
    if cell_len(text) <= cells:
        return text
    kept = _first_cells(text, cells)
    return kept and kept + DOTS


def tail(text: str, cells: int) -> str:
    """The end of a text, in at most `cells` terminal cells; empty if too few."""
    if cell_len(text) <= cells:
        return text
    kept = _first_cells(text[::-1], cells)[::-1]
    return kept and DOTS + kept


def take_any_text(stream: TextIO) -> bool:
    """Whether a stream's encoding has every character. If not, makes it print a question mark for
    those that it lacks, so that no text can fail."""
    if not isinstance(stream, io.TextIOWrapper) or "utf" in stream.encoding.lower():
        return True
    stream.reconfigure(errors="replace")
    return False


def _first_cells(text: str, cells: int) -> str:
    """The prefix that fits in so many cells. A character may be two cells wide, or none."""
    if cells < _LEAST_SHOWN:
        return ""
    used = len(DOTS)
    for index, char in enumerate(text):
        used += cell_len(char)
        if used > cells:
            return text[:index]
    return text
