"""Where a Ray of our own keeps its sockets, logs and token on this machine.

Ray itself finds out as it starts, from whatever fails first, and with a traceback.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ray._common.utils import get_default_system_temp_dir

from gfn_ray.errors import UserError

SHARED_MEMORY = Path("/dev/shm")

# An address of a socket has 107 bytes on Linux. Ray adds to a temporary directory its own name, the
# session's (with time and process) and the socket's.
_BELOW = "/ray/session_2026-01-31_23-59-59_999999_4194304/sockets/plasma_store"
LONGEST = 107 - len(_BELOW)
"""Bytes of a temporary directory in which Ray's sockets still have addresses."""

_TOKEN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")  # a person's own, in place of the home's

_ROOM = 1 << 20  # bytes: some logs and settings of a start


def check_shared_memory(shared_memory: Path = SHARED_MEMORY) -> None:
    """Raises UserError where there is none."""
    if not shared_memory.is_dir():
        raise UserError(
            f"{shared_memory} is missing, where Ray's processes share memory; mount it "
            f"(mount -t tmpfs tmpfs {shared_memory})"
        )


def provide_home() -> None:
    """A home for Ray's token, of this account alone; raises UserError where there can be none."""
    if os.environ.get("RAY_AUTH_MODE") == "disabled" or any(map(os.environ.get, _TOKEN)):
        return
    try:
        home = Path.home()
        os.environ.setdefault("HOME", str(home))  # by which alone Ray's servers find the token
        directory = home / ".ray"
        if (directory / "auth_token").is_file() and not os.access(directory, os.W_OK):
            return  # it has been written, and need not be again
        directory.mkdir(exist_ok=True)
        # Ray writes the token for all to read, and whoever has it can run code as this account.
        directory.chmod(0o700)
        _try(directory)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"Ray keeps its token in the home directory's .ray, where it cannot be written "
            f"({error}); set HOME to a directory that can be"
        ) from None


def temporary_directory() -> str | None:
    """Where Ray's session goes: None for the place that Ray itself takes, where that will do, else
    the first other one that does.

    Raises UserError where none does, or where RAY_TMPDIR, which is meant for Ray, does not.
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
    """What keeps Ray's session out of a directory, which Ray makes if it is not there."""
    if not place.is_absolute():
        return "is no absolute path"
    if len(os.fsencode(place)) > LONGEST:
        return "is too long for the address of a socket"
    try:
        ours = place / "ray"
        _try(next(one for one in (ours, *ours.parents) if one.exists()))
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return None


def _try(directory: Path) -> None:
    """Raises OSError where there is no room for a file."""
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(bytes(_ROOM))
        file.flush()
