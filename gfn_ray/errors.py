"""The two kinds of failure a user meets, their exit codes, and how messages quote values.

Owns the exception types that cross module boundaries on purpose. Anything else that escapes is a
bug and keeps its traceback.
"""

from __future__ import annotations

_WORDS_FOR_NO_MEMORY = (
    "allocate memory",
    "unable to allocate",
    "can't start new thread",
    "bad_alloc",
    "could not create a primitive",  # from oneDNN, which gives no cause
)
_LONGEST_QUOTE = 80  # characters of a quote in a one-line message

EXIT_USER_ERROR = 2
EXIT_RUN_FAILED = 3
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """A mistake in settings, data or files that the user can fix.

    The message has one or two sentences: what was expected, what came, and which setting changes
    it. Jobs print it without a traceback and exit with 2.
    """


class RunFailed(Exception):
    """The run cannot continue: an actor died, or a remote call exceeded its time limit.

    The message names the actor, what it was asked to do, and the setting that bounds the wait. Jobs
    print it without a traceback and exit with 3.
    """


class OutOfMemory(RunFailed):
    """There was too little memory at the moment; an actor may try again later."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means out of memory, in the words of Python, CUDA, torch, numpy or Ray."""
    return (
        isinstance(error, MemoryError | OutOfMemory)
        or type(error).__name__ == "OutOfMemoryError"
        or any(words in str(error).lower() for words in _WORDS_FOR_NO_MEMORY)
    )


def shown(value: object) -> str:
    """A rejected value as Python writes it, cut to fit a line."""
    try:
        return cut(repr(value))
    except (ValueError, RecursionError):  # thousands of digits, or of brackets
        return f"a very long {type(value).__name__}"


def cut(text: str, longest: int = _LONGEST_QUOTE) -> str:
    """Cuts a text for quoting in a message."""
    return text if len(text) <= longest else text[:longest] + "..."
