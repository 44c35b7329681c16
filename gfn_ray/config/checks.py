"""Checks that several sections share. They raise ValueError, as pydantic expects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from string import Formatter

from gfn_ray.errors import shown


def check_lengths(min_len: int, max_len: int) -> None:
    """Check that the shortest z is no longer than the longest."""
    if min_len > max_len:
        raise ValueError(
            f"task.min_len ({min_len}) exceeds task.max_len ({max_len}); "
            "lower the first or raise the second"
        )


def real_directory(path: Path | None) -> Path | None:
    """Returns the path with its links resolved now, valid from any working directory."""
    return None if path is None else Path(os.path.realpath(path.expanduser()))


def absolute_path(path: Path | None) -> Path | None:
    """Returns the path, valid from any working directory; its links stay unresolved."""
    return None if path is None else Path(os.path.abspath(path.expanduser()))


def check_template(
    setting: str, template: str, fields: Sequence[str], *, needed: Sequence[str] = ()
) -> None:
    """Check that a template has only these fields, all the needed ones, each as a plain {field}.

    Python would fill in more than that: {field.x} and {field[x]} reach inside a text, and
    {field:9999999999} pads it to that length.
    """
    *others, last = (f"{{{field}}}" for field in fields)
    takes = f"{', '.join(others)} and {last}" if others else last
    try:
        parts = [part for part in Formatter().parse(template) if part[1] is not None]
    except ValueError:  # a single brace
        parts = [("", "", "", "")]
    if any(field not in fields or spec or conversion for _, field, spec, conversion in parts):
        raise ValueError(
            f"{setting} takes plain {takes}, and doubled braces for literal ones; got "
            f"{shown(template)}"
        )
    if missing := set(needed) - {field for _, field, _, _ in parts}:
        raise ValueError(f"{setting} lacks {{{min(missing)}}}; got {shown(template)}")


def check_end(setting: str, template: str, what_follows: str) -> None:
    """Check that a template does not end in a space if the text after it begins with one, as a z
    that opens with a word does. A language model has rarely seen two; every log p would suffer."""
    last = template[-1:]
    if last.isspace() and last not in "\r\n":
        raise ValueError(
            f"{setting} ends in a space, and {what_follows} begins with one; leave it out: got "
            f"{shown(template[-40:])}"
        )
