"""Reads the user's files, within bounds.

Refuses any file, whatever its format, that is missing, is not a regular file (a pipe could block
forever), is too large, has too long a line, or is not UTF-8. A byte-order mark of UTF-8 is skipped.
"""

from __future__ import annotations

import codecs
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

from gfn_ray.errors import UserError
from gfn_ray.paths import unreadable

LARGEST_FILE = 2**30  # bytes: read line by line, but the parsed rows are kept in memory
LARGEST_DOCUMENT = 2**26  # bytes: kept in memory whole, several times as large once parsed
LONGEST_LINE = 2**20  # bytes: a book of 200,000 words

_NOT_UTF8 = "bytes that are not UTF-8"
_A_NUL = "a NUL byte"
_REMEDIES = {
    _NOT_UTF8: "save the file as UTF-8",
    _A_NUL: "leave it out, or save the file as UTF-8 text",
}

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_OTHER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_LONGEST_MARK = max(len(mark) for mark, _ in _OTHER_MARKS)
_KINDS = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


def raw_lines(path: Path, setting: str) -> Iterator[bytes]:
    """Yields the lines with their ends; raises UserError if one cannot be read.

    setting: the flag that names the file, for messages.
    """
    size = 0
    with _opened(path, setting, LARGEST_FILE) as file:
        line = file.readline(LONGEST_LINE + 1).removeprefix(codecs.BOM_UTF8)
        number = 1
        while line:
            size += len(line)
            if len(line) > LONGEST_LINE:
                raise UserError(
                    f"{path}, line {number}: more than {LONGEST_LINE:,} bytes; break the line up, "
                    f"or give another file as {setting}"
                )
            if size > LARGEST_FILE:  # the file grew
                _refuse_size(path, setting, LARGEST_FILE)
            yield line
            line = file.readline(LONGEST_LINE + 1)
            number += 1


def text_lines(path: Path, setting: str) -> Iterator[tuple[str, str]]:
    """Yields pairs of a line's location, such as "prompts.txt, line 3", and its text."""
    for number, raw in enumerate(raw_lines(path, setting), 1):
        where = f"{path}, line {number}"
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            _refuse_bytes(where, _NOT_UTF8)
        if "\0" in text:
            _refuse_bytes(where, _A_NUL)
        yield where, text


def read_document(path: Path, setting: str, largest: int = LARGEST_DOCUMENT) -> str:
    """Returns the text of a file that must be parsed as a whole. largest: in bytes."""
    with _opened(path, setting, largest) as file:
        raw = file.read(largest + 1)
    if len(raw) > largest:
        _refuse_size(path, setting, largest)
    raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse_bytes(f"{path}, line {_line_of(raw, error.start)}", _NOT_UTF8)
    if (at := raw.find(b"\0")) >= 0:
        _refuse_bytes(f"{path}, line {_line_of(raw, at)}", _A_NUL)
    return text


def folded(text: str, where: str) -> str:
    """Returns the text with its white space folded to single spaces.

    Raises UserError, which begins with `where`, for NUL and for text that is not valid UTF-8.
    """
    if found := bad_bytes(text):
        _refuse_bytes(where, found)
    return " ".join(text.split())


def bad_bytes(text: str) -> str | None:
    """Returns what is wrong with a text, NUL or invalid UTF-8; None if nothing is."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        return _NOT_UTF8
    return _A_NUL if "\0" in text else None


@contextmanager
def _opened(path: Path, setting: str, largest: int) -> Iterator[BinaryIO]:
    """Opens the file; turns OSError into UserError."""
    try:
        home = path.expanduser()
        status = home.stat()  # before opening, which alone can block
        _check_kind(path, setting, status.st_mode)
        if status.st_size > largest:
            _refuse_size(path, setting, largest)
        with home.open("rb") as file:
            mark = file.read(_LONGEST_MARK)
            for other, name in _OTHER_MARKS:
                if mark.startswith(other):
                    raise UserError(f"{path} is {name}, by its first bytes; save it as UTF-8")
            file.seek(0)
            yield file
    except OSError as error:
        raise unreadable(path, setting, error) from None


def _check_kind(path: Path, setting: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise UserError(f"{setting}: cannot read {path}: it is a directory; give a file")
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "a device")
        raise UserError(
            f"{setting}: cannot read {path}: it is {kind}; save its output to a file, and give that"
        )


def _refuse_bytes(where: str, found: str) -> NoReturn:
    raise UserError(f"{where}: {found}; {_REMEDIES[found]}") from None


def _refuse_size(path: Path, setting: str, largest: int) -> NoReturn:
    raise UserError(
        f"{setting}: cannot read {path}: it has more than {largest:,} bytes; give a part of it"
    )


def _line_of(raw: bytes, at: int) -> int:
    return raw.count(b"\n", 0, at) + 1
