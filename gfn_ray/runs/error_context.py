"""Error messages that end a run: what failed, and how to resume."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gfn_ray.errors import RunFailed, UserError

# Errors of the disk, not bugs of ours.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}


@contextmanager
def with_resume_hint(left_behind: Callable[[], str], discard: Callable[[], bool]) -> Iterator[None]:
    """Adds how to resume the run to an error that ends it.

    discard: after a user's mistake, undoes the start of a run that has nothing to keep yet, and
    returns whether it did. Raises the same UserError or RunFailed with the hint, and RunFailed for
    a full or broken disk.
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
    """Turns the error of a full or broken disk into a RunFailed."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        file = error.filename or "a file of the run"
        raise RunFailed(
            f"cannot write {file}: {error.strerror}; free disk space or repair the disk"
        ) from error
