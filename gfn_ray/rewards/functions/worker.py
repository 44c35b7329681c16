"""The process that a user's reward function runs in: python -m gfn_ray.rewards.functions.worker.

Owns its side of the protocol: one JSON object a line over a socket that it inherits. It ends with
its parent, even in the midst of a call.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import threading
from typing import Any

from gfn_ray.rewards.functions.calling import call, described, find_function, missing_arguments


def main(spec: str, descriptor: int) -> None:
    """spec: `file.py:name` or `package.module:name`. descriptor: of the socket."""
    connection = socket.socket(fileno=descriptor)
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    with connection.makefile("r", encoding="utf-8") as lines:
        columns = json.loads(lines.readline())
        try:
            function = find_function(spec)
        except BaseException as error:  # a module may even exit
            _answer(connection, {"error": described(error)})
            return
        _answer(connection, {"missing": missing_arguments(function, columns)})
        for line in lines:
            rewards, faults = call(function, json.loads(line))
            _answer(connection, {"rewards": rewards, "faults": faults})


def _answer(connection: socket.socket, answer: dict[str, Any]) -> None:
    connection.sendall(json.dumps(answer).encode() + b"\n")


def _end_with_parent(connection: socket.socket) -> None:
    hung_up = select.poll()
    hung_up.register(connection, select.POLLRDHUP)
    hung_up.poll()
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
