"""The ways in which a good place is spoiled."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Spoil = Callable[[Path], Any]


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


def a_pipe(file: Path) -> None:
    """Whoever opens it to read waits for a writer."""
    file.unlink()
    os.mkfifo(file)


def empty(directory: Path) -> None:
    gone(directory)
    directory.mkdir()


def replace(old: str, new: str) -> Spoil:
    return lambda file: file.write_text(file.read_text().replace(old, new))


def below(name: str, spoil: Spoil) -> Spoil:
    return lambda directory: spoil(directory / name)


def too_long(home: Path) -> Path:
    """A place that no system gives; not below home, which is not open to all."""
    return Path("/" + "x" * 300)


def closed(home: Path) -> Path:
    """A place below where nobody without privileges may look."""
    (home / "closed").mkdir(mode=0)
    return home / "closed" / "in it"


OUT_OF_SIGHT = {
    too_long: "File name too long; give a shorter one",
    closed: "Permission denied; change its permissions",
}
"""Ways to make a place at which nothing can be looked up, and what a refusal says of each."""
