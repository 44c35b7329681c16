"""What every refusal of a person's mistake looks like, whatever the mistake."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from gfn_ray.cli import main

NOBODY = 65534  # the user that owns nothing
LONGEST = 700  # characters of a sentence that a person still reads

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
    body: Callable[[], int],
    capsys: pytest.CaptureFixture[str],
    home: Path,
    names: Sequence[str],
) -> None:
    """The job's body ends as a person's mistake should: code 2, one sentence that names what is
    at fault and what mends it, nothing on standard output, and the directory as it was."""
    before = contents(home)
    try:
        code = main(body)
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    assert out == ""
    check(code, err, names)
    assert contents(home) == before


def check(code: object, err: str, names: Sequence[str]) -> None:
    """Exit code and standard error are those of a refusal that names all of these."""
    assert code == 2, err
    line = err.removesuffix("\n")
    assert line.startswith("error: ") and line.isprintable() and len(line) < LONGEST, err
    assert [name for name in names if name not in line] == [], line


def contents(home: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, size and time of change of all that lies below a directory."""
    return {
        str(path.relative_to(home)): (status.st_mode, status.st_size, status.st_mtime_ns)
        for path in sorted(home.rglob("*"))
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
