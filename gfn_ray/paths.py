"""Paths given by the user, and checks of what is there.

Owns the directory that relative output paths start from, and the message for a path that cannot be
read. Reads and writes no file.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from gfn_ray.errors import UserError, cut

_LONGEST_PATH = 300  # characters of a path that a message quotes
_CURES = {
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.ENAMETOOLONG: "give a shorter one",
}


def output_root() -> Path:
    """The directory that relative output paths start from.

    Ray deletes its copy of a submitted working directory with the job, so outputs of such a job go
    to ~/gfn_ray instead.
    """
    if home := os.environ.get("GFN_RAY_HOME"):
        return Path(home).expanduser().absolute()
    here = Path.cwd()
    return Path.home() / "gfn_ray" if "runtime_resources" in here.parts else here


def exists(path: Path, setting: str) -> bool:
    """Path.exists; raises UserError if the path is too long or not accessible."""
    try:
        return path.exists()
    except OSError as error:
        raise unreadable(path, setting, error) from None


def is_file(path: Path, setting: str) -> bool:
    """Path.is_file, likewise."""
    return exists(path, setting) and path.is_file()


def is_dir(path: Path, setting: str) -> bool:
    """Path.is_dir, likewise."""
    return exists(path, setting) and path.is_dir()


def unreadable(path: Path, setting: str, error: OSError) -> UserError:
    """The error for an unreadable path, with its remedy. setting: the one that names the path."""
    cure = _CURES.get(error.errno or 0, "check the path")
    place = cut(str(path), _LONGEST_PATH)
    return UserError(f"{setting}: cannot read {place}: {error.strerror}; {cure}")
