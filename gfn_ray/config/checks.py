"""What several sections ask of settings. Checks raise ValueError, as pydantic expects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from string import Formatter

from gfn_ray.errors import shown


def check_lengths(min_len: int, max_len: int) -> None:
    """The shortest z must be no longer than the longest."""
    if min_len > max_len:
        raise ValueError(
            f"task.min_len ({min_len}) exceeds task.max_len ({max_len}); "
            "lower the first or raise the second"
        )


def real_directory(path: Path | None) -> Path | None:
    """The directory that a path leads to now, from wherever it is read later."""
    return None if path is None else Path(os.path.realpath(path.expanduser()))


def absolute_path(path: Path | None) -> Path | None:
    """The path from wherever it is read later; links in it are followed then."""
    return None if path is None else Path(os.path.abspath(path.expanduser()))


def check_template(
    setting: str, template: str, fields: Sequence[str], *, needed: Sequence[str] = ()
) -> None:
    """A template must have no other fields than these, all of those needed, and each as {field}.

    What Python would fill in beside that is refused: {field.x} and {field[x]} look inside of a
    text, and {field:9999999999} makes it that long.
    """
    *others, last = (f"{{{field}}}" for field in fields)
    takes = f"{', '.join(others)} and {last}" if others else last
    try:
        parts = [part for part in Formatter().parse(template) if part[1] is not None]
    except ValueError:  # a single brace
        parts = [("", "", "", "")]
    if any(field not in fields or spec or conversion for _, field, spec, conversion in parts):
        raise ValueError(
            f"{setting} takes {takes} as they stand, and doubled braces for literal ones; got "
            f"{shown(template)}"
        )
    if missing := set(needed) - {field for _, field, _, _ in parts}:
        raise ValueError(f"{setting} lacks {{{min(missing)}}}; got {shown(template)}")


def check_end(setting: str, template: str, what_follows: str) -> None:
    """A template must not end in a space where what follows begins with one, as a z does that opens
    with a word: a language model has hardly ever read two, and every log p would tell of that."""
    last = template[-1:]
    if last.isspace() and last not in "\r\n":
        raise ValueError(
            f"{setting} ends in a space, and {what_follows} begins with one; leave it out: got "
            f"{shown(template[-40:])}"
        )
