"""Checks between settings that several tasks have. Each raises ValueError, as pydantic expects."""

from __future__ import annotations


def check_lengths(min_len: int, max_len: int) -> None:
    """The shortest z must be no longer than the longest."""
    if min_len > max_len:
        raise ValueError(
            f"task.min_len ({min_len}) exceeds task.max_len ({max_len}); "
            "lower the first or raise the second"
        )


def check_template(setting: str, template: str, takes: str, **filled: object) -> None:
    """A template must have no other fields than those filled.

    takes: them in words, up to the "and" before the braces.
    """
    try:
        template.format(**filled)
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{setting} takes {takes} and doubled braces for literal ones; got {template!r} "
            f"({error!r})"
        ) from None
