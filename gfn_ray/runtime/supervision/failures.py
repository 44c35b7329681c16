"""The outcome of a remote call: its value, or how it failed.

Translates Ray's exceptions into our own, with one-line messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from gfn_ray.errors import RunFailed, UserError, out_of_memory
from gfn_ray.runtime.supervision.device_errors import is_device_error

# Values are read once they are ready; fetching one from another node may take time.
FETCH_LIMIT_S = 60.0

# Cuts off Ray's list of common causes, which is always the same.
_EXIT_DETAIL = re.compile(r"exit detail: (.*?)(?: Some common causes include|$)")

_DEATHS = (ActorDiedError, ActorUnavailableError, WorkerCrashedError, OutOfMemoryError)


class ActorLost(Exception):
    """The actor died, ran out of memory or cannot be reached; a successor may do the work."""


class ActorDied(ActorLost):
    """The actor's process is gone, or of no use any more, for a reason other than an exception in
    its code; so a new process may load what it could not."""


class DataLost(Exception):
    """The call's data is gone from the object store and must be made again."""

    def ends_the_run(self) -> RunFailed:
        """The error for a caller that cannot make the data again."""
        return RunFailed(f"{self}; it cannot be made again in the middle of a run")


class AnswerLost(ActorDied, DataLost):
    """The actor answered, but its node took the answer with it; a successor may answer again."""


def value_of(ref: Any, actor: str, what: str, limit: float = FETCH_LIMIT_S) -> Any:
    """Returns the value of a finished call. actor, what: name it in errors.

    Raises ActorLost, DataLost, UserError if the actor raised it, and RunFailed for everything
    else, which a restart would only meet again. An answer lost with its node is both of the first.
    """
    try:
        return ray.get(ref, timeout=limit)
    except GetTimeoutError:
        raise DataLost(f"data from {actor} could not be fetched within {limit:g} s") from None
    except RayTaskError as error:  # first: it is also an instance of its cause's class
        cause = error.cause if isinstance(error.cause, Exception) else error
        if isinstance(cause, UserError):
            raise type(cause)(str(cause)) from None
        if isinstance(cause, ObjectLostError):
            raise DataLost(f"data for {actor} is lost: {_cause(cause)}") from error
        if out_of_memory(cause):
            raise ActorLost(f"{actor} ran out of memory while trying to {what}") from error
        if is_device_error(cause):
            raise ActorDied(
                f"{actor} lost its device, its peers or its engine while trying to {what}: "
                f"{type(cause).__name__}: {_first_line(cause)}"
            ) from error
        raise RunFailed(f"{actor} failed to {what}: {type(cause).__name__}: {cause}") from error
    except ObjectLostError as error:
        raise AnswerLost(f"data from {actor} is lost: {_cause(error)}") from error
    except _DEATHS as error:
        kind = ActorLost if "creation task" in str(error) else ActorDied
        raise kind(f"{actor} died while trying to {what}: {_cause(error)}") from error
    except RayError as error:  # a full disk or object store, a node or a placement that is gone
        raise _not_let(actor, what, error) from error


def about_room(error: Exception) -> bool:
    """Whether a lack of memory, disk or cores may be the cause: not if an actor's code raised."""
    raised = isinstance(error, RunFailed) and isinstance(error.__cause__, RayTaskError)
    return not raised and not isinstance(error, DataLost)


@contextmanager
def making(actor: str, what: str) -> Iterator[None]:
    """Wraps the making of a remote call: its arguments go into the object store at once, which may
    be full."""
    try:
        yield
    except RayError as error:
        raise _not_let(actor, what, error) from error


def _not_let(actor: str, what: str, error: RayError) -> RunFailed:
    return RunFailed(f"Ray could not let {actor} {what}: {_cause(error)}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "(no message)"


def _cause(error: Exception) -> str:
    """Reduces Ray's account of a death from dozens of lines to one."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "creation task" in text and lines:
        return lines[-1]  # the last line of the constructor's traceback
    for line in lines:
        if detail := _EXIT_DETAIL.search(line):
            return detail[1]
        if "killed by" in line:
            return line
    return lines[0] if lines else type(error).__name__
