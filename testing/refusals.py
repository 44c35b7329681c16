"""What every refusal of a person's mistake looks like, whatever the mistake."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gfn_ray.cli import main

NOBODY = 65534  # the user that owns nothing
LONGEST = 700  # characters of a sentence that a person still reads
LOCKS = (".lock", "lock")

Content = bytes | str | Callable[[Path], object] | None


def put(path: Path, content: Content) -> None:
    """Makes what the case finds at this path: a file of these bytes, or what a function makes."""
    if callable(content):
        content(path)
    elif content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def sparse(size: int) -> Callable[[Path], None]:
    """Makes a file of so many zero bytes, none of which is on the disk."""

    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return make


def refusal(
    ask: Callable[[], Any], home: Path, capsys: pytest.CaptureFixture[str], *named: str
) -> str:
    """What is asked for ends as a person's mistake should: code 2, one sentence that names these
    words, nothing on standard output, and all below home as it was. Returns the sentence."""
    before = contents(home)
    capsys.readouterr()
    try:
        code = main(lambda: ask() or 0)
    except SystemExit as end:  # a command line ends the process itself
        code = end.code
    out, err = capsys.readouterr()
    assert out == ""
    line = check(code, err, *named)
    assert contents(home) == before
    return line


def check(code: object, err: str, *named: str) -> str:
    """Exit code and standard error are those of a refusal that names all of these, and a way out.
    Returns its sentence."""
    assert code == 2, err
    line = err.removesuffix("\n")
    assert line.startswith("error: ") and line.isprintable() and len(line) < LONGEST, err
    assert "; " in line, f"what is wrong; what to do: {line}"
    assert [name for name in named if name not in line] == [], line
    return line


def contents(home: Path) -> dict[str, tuple[int, ...]]:
    """All that lies below a directory, and what changes with a file: mode, number, size and time.
    Not the locks, which say nothing, nor a directory's time, which a lock changes."""
    return {
        str(path.relative_to(home)): (status.st_mode,)
        if stat.S_ISDIR(status.st_mode)
        else (status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns)
        for path in home.rglob("*")
        if path.name not in LOCKS
        for status in [path.lstat()]
    }


@contextmanager
def unprivileged() -> Iterator[None]:
    """Nothing is readable that permissions forbid, for root as for others."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
