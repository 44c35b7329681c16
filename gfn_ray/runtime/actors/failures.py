"""What became of a remote call: its value, or which of the ways it failed.

Owns the reading of Ray's exceptions, and the sentences made of them.
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

# A value is asked for when it is known to be there; fetching it from another node may take time.
FETCH_LIMIT_S = 60.0

# Ray's own list of possible causes follows it, and is the same each time.
_EXIT_DETAIL = re.compile(r"exit detail: (.*?)(?: Some common causes include|$)")

_DEATHS = (ActorDiedError, ActorUnavailableError, WorkerCrashedError, OutOfMemoryError)


class ActorLost(Exception):
    """The actor died, ran out of memory or cannot be reached: another one may do the work."""


class ActorDied(ActorLost):
    """Its process is gone, and not by anything that its code raised."""


class DataLost(Exception):
    """The call's data is gone from the object store: it has to be made again."""

    def ends_the_run(self) -> RunFailed:
        """For a caller that cannot make it again."""
        return RunFailed(f"{self}; it cannot be made again in the middle of a run")


def value_of(ref: Any, actor: str, what: str, limit: float = FETCH_LIMIT_S) -> Any:
    """The value of a call that is done. actor and what name it in errors.

    Raises ActorLost, DataLost, UserError where that is what the actor raised, and RunFailed for
    all else: a restart would only meet the same again.
    """
    try:
        return ray.get(ref, timeout=limit)
    except GetTimeoutError:
        raise DataLost(f"what {actor} made was not to be had within {limit:g} s") from None
    except ObjectLostError as error:
        raise DataLost(f"what {actor} made is lost: {_cause(error)}") from error
    except RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        if isinstance(cause, UserError):
            raise type(cause)(str(cause)) from None
        if isinstance(cause, ObjectLostError):
            raise DataLost(f"what {actor} was given is lost: {_cause(cause)}") from error
        if out_of_memory(cause):
            raise ActorLost(f"{actor} ran out of memory while it had to {what}") from error
        raise RunFailed(f"{actor} failed to {what}: {type(cause).__name__}: {cause}") from error
    except _DEATHS as error:
        kind = ActorLost if "creation task" in str(error) else ActorDied
        raise kind(f"{actor} died while it had to {what}: {_cause(error)}") from error
    except RayError as error:  # a full disk or object store, a node or a placement that is gone
        raise _not_let(actor, what, error) from error


def about_room(error: Exception) -> bool:
    """Whether memory, disk or cores may have been short: not where an actor's own code raised."""
    raised = isinstance(error, RunFailed) and isinstance(error.__cause__, RayTaskError)
    return not raised and not isinstance(error, DataLost)


@contextmanager
def making(actor: str, what: str) -> Iterator[None]:
    """Around a remote call as it is made: what is given by value goes into the object store at
    once, and that may be full."""
    try:
        yield
    except RayError as error:
        raise _not_let(actor, what, error) from error


def _not_let(actor: str, what: str, error: RayError) -> RunFailed:
    return RunFailed(f"Ray could not let {actor} {what}: {_cause(error)}")


def _cause(error: Exception) -> str:
    """Ray's account of a death in one line; it runs to dozens."""
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
