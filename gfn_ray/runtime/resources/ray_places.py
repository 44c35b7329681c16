"""Where our own Ray keeps its sockets, logs and token on this machine.

Checked in advance, because Ray itself fails during its start, with a traceback.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ray._common.utils import get_default_system_temp_dir

from gfn_ray.errors import UserError

SHARED_MEMORY = Path("/dev/shm")

# A socket address has at most 107 bytes on Linux. Below a temporary directory, Ray adds its own
# name, the session's (with time and process) and the socket's.
_BELOW = "/ray/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store"
LONGEST = 107 - len(_BELOW)
"""Longest path, in bytes, of a temporary directory for Ray's sockets."""

_TOKEN = (
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
)  # set by the user, instead of the one in the home directory

_ROOM = 1 << 20  # bytes: the logs and settings of a start


def check_shared_memory(shared_memory: Path = SHARED_MEMORY) -> None:
    """Raises UserError if there is none."""
    if not shared_memory.is_dir():
        raise UserError(
            f"{shared_memory}, where Ray's processes share memory, is missing; mount it "
            f"(mount -t tmpfs tmpfs {shared_memory})"
        )


def provide_home() -> None:
    """Prepares a private home for Ray's token; raises UserError if there can be none."""
    if os.environ.get("RAY_AUTH_MODE") == "disabled" or any(map(os.environ.get, _TOKEN)):
        return
    try:
        home = Path.home()
        os.environ.setdefault("HOME", str(home))  # the only way Ray's servers find the token
        directory = home / ".ray"
        if (directory / "auth_token").is_file() and not os.access(directory, os.W_OK):
            return  # the token is already there
        directory.mkdir(exist_ok=True)
        # Ray makes the token readable for everyone, and it allows running code as this account.
        directory.chmod(0o700)
        _try(directory)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"Ray keeps its token in the home directory's .ray, where it cannot be written "
            f"({error}); set HOME to a directory that can be"
        ) from None


def temporary_directory() -> str | None:
    """The directory for Ray's session: None if Ray's default works, else the first that does.

    Raises UserError if none does, or if RAY_TMPDIR, which is meant for Ray, does not.
    """
    own = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    default = get_default_system_temp_dir()
    faults = []
    for place in [default, *(() if own == "RAY_TMPDIR" else _others())]:
        fault = _fault(Path(place))
        if fault is None:
            return None if place == default else str(Path(place) / "ray")
        faults.append(f"{place} {fault}")
    raise UserError(
        f"Ray has no place for its sockets and logs: {', '.join(faults)}; set {own} to a directory "
        f"that can be written, with a path of at most {LONGEST} bytes"
    )


def _others() -> list[str]:
    return [*filter(None, [os.environ.get("XDG_RUNTIME_DIR")]), "/tmp", "/var/tmp"]  # nosec


def _fault(place: Path) -> str | None:
    """Why Ray's session cannot use a directory, which Ray creates if needed; None if it can."""
    if not place.is_absolute():
        return "is not an absolute path"
    if len(os.fsencode(place)) > LONGEST:
        return "is too long for the address of a socket"
    try:
        ours = place / "ray"
        _try(next(one for one in (ours, *ours.parents) if one.exists()))
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return None


def _try(directory: Path) -> None:
    """Raises OSError if there is no room for a file."""
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(_ROOM))
        file.flush()
