"""How a run that cannot go on says so: one sentence of what failed, and one of how to go on."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gfn_ray.errors import RunFailed, UserError

# What a disk says of itself, not of a bug of ours.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}


@contextmanager
def with_resume_hint(left_behind: Callable[[], str], discard: Callable[[], bool]) -> Iterator[None]:
    """Adds what the run has left behind to an error that ends it; a full or broken disk is one.

    discard: after a person's mistake, undoes the start of a run that has nothing to keep yet,
    and says whether it did. Raises what it was given, UserError or RunFailed, and RunFailed for
    the disk.
    """
    try:
        with writing():
            yield
    except UserError as error:
        if discard():
            raise
        raise UserError(f"{error}; {left_behind()}") from error
    except RunFailed as error:
        raise RunFailed(f"{error}; {left_behind()}") from error


@contextmanager
def writing() -> Iterator[None]:
    """Around what is written to disk: a full or broken one ends the run with a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        file = error.filename or "a file of the run"
        raise RunFailed(
            f"cannot write {file}: {error.strerror}; free disk space or repair the disk"
        ) from error
