"""The two kinds of failure a person meets, the exit code of each, and how a message quotes.

Owns the exception types that cross module boundaries on purpose. Anything else
that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

_LONGEST_QUOTE = 80  # characters of what is quoted in an error's one line

EXIT_USER_ERROR = 2
EXIT_RUN_FAILED = 3
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """A mistake in settings, data or files that the person at the keyboard can mend.

    The message is one sentence or two: what was expected, what came, and which
    setting changes it. Jobs print it without a traceback and exit with 2.
    """


class RunFailed(Exception):
    """The run cannot go on: an actor died, or a remote call passed its time limit.

    The message names the actor, what was asked of it, and the setting that bounds
    the wait. Jobs print it without a traceback and exit with 3.
    """


def shown(value: object) -> str:
    """A refused value as Python writes it, cut to what a line has room for."""
    try:
        return cut(repr(value))
    except (ValueError, RecursionError):  # thousands of digits, or of brackets
        return f"a very long {type(value).__name__}"


def cut(text: str) -> str:
    """The beginning of a text that a message quotes."""
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "..."
