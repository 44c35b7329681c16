"""What every bad place must get, and the ways in which a good one is spoiled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gfn_ray.cli import main

Spoil = Callable[[Path], Any]

LOCKS = (".lock", "lock")


def contents(home: Path) -> dict[str, bytes | None]:
    """Every file below, and every directory; not the locks, which say nothing."""
    return {
        str(path.relative_to(home)): path.read_bytes() if path.is_file() else None
        for path in home.rglob("*")
        if path.name not in LOCKS
    }


def refused(
    ask: Callable[[], Any], home: Path, capsys: pytest.CaptureFixture[str], *named: str
) -> str:
    """The sentence: one line that names these words and a way out; nothing below home changed."""
    before = contents(home)
    capsys.readouterr()
    try:
        code = main(lambda: ask() or 0)
    except SystemExit as end:  # a command line ends the process itself
        code = end.code
    said = capsys.readouterr().err.splitlines()
    assert code == 2, said
    (line,) = [one for one in said if one.startswith("error: ")]
    assert said[-1] == line and "Traceback" not in line
    for word in named:
        assert word in line, line
    assert ";" in line, f"what is wrong; what to do: {line}"
    assert contents(home) == before
    return line


def flip(file: Path, place: float = 0.5) -> None:
    """One bit of a file, at this share of its length."""
    data = bytearray(file.read_bytes())
    data[int(place * (len(data) - 1))] ^= 4
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def fill(file: Path, content: bytes = bytes(range(256)) * 4) -> None:
    file.write_bytes(content)


def promise_too_much(file: Path) -> None:
    """A safetensors header that says it is longer than any file."""
    data = file.read_bytes()
    file.write_bytes((2**62).to_bytes(8, "little") + data[8:])


def change_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def gone(directory: Path) -> None:
    shutil.rmtree(directory)


def a_file(directory: Path) -> None:
    gone(directory)
    directory.write_text("no directory")


def empty(directory: Path) -> None:
    gone(directory)
    directory.mkdir()


def replace(old: str, new: str) -> Spoil:
    return lambda file: file.write_text(file.read_text().replace(old, new))


def below(name: str, spoil: Spoil) -> Spoil:
    return lambda directory: spoil(directory / name)
