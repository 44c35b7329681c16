"""Checks within seconds whether a Ray cluster can answer at an address.

Ray itself tries for minutes, with its own warnings, if nothing or another program listens there.
Ray's servers speak gRPC over HTTP/2, so the server's first bytes are enough.
"""

from __future__ import annotations

import os
import re
import socket

ANSWER_S = 5.0
"""Longest wait for a connection, and for the first bytes."""

_ADDRESS = re.compile(r"(?P<host>\[[^\]]+\]|[^:/\s]+):(?P<port>\d{1,5})")
CLIENT = "ray://"

# RFC 9113, 3.4: the client's preface, with an empty SETTINGS frame; the server starts with one too.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_FRAME_BYTES = 9
_SETTINGS = 4  # frame type, the fourth byte


def check_answers(address: str) -> None:
    """Raises ConnectionError if no Ray cluster can be at an address that ray.init accepts.

    Ray itself rejects an address without host and port at once.
    """
    found = _ADDRESS.fullmatch(_own() if address == "auto" else address)
    if not found:
        return
    place = (found["host"].strip("[]"), int(found["port"]))
    try:
        with socket.create_connection(place, timeout=ANSWER_S) as connection:
            if (
                os.environ.get("RAY_USE_TLS", "0") == "0"
            ):  # with TLS the server waits for a handshake
                _greet(connection)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConnectionError(f"{place[0]}:{place[1]}: {error}") from None


def _greet(connection: socket.socket) -> None:
    connection.sendall(_PREFACE)
    frame = b""
    while len(frame) < _FRAME_BYTES:
        more = connection.recv(_FRAME_BYTES - len(frame))
        if not more:
            raise ConnectionError("another program listens there")
        frame += more
    if frame[3] != _SETTINGS:
        raise ConnectionError("another program listens there")


def _own() -> str:
    """The address of the cluster started last on this machine."""
    from ray._private.services import canonicalize_bootstrap_address

    return str(canonicalize_bootstrap_address("auto"))
