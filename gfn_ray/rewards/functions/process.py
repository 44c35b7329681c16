"""A user's reward function in a process of its own, with a time limit a batch.

Owns that process: it starts with the first batch, is killed where it is late, and started anew for
the next batch. What crosses is JSON; nothing of the user's is imported on this side.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from gfn_ray.errors import UserError
from gfn_ray.rewards.functions.calling import ALWAYS_GIVEN, Arguments, Faults, Rewards

WORKER = "gfn_ray.rewards.functions.worker"


class FunctionProcess:
    """The function that a spec names, called in its process. Not for several threads at once."""

    def __init__(self, spec: str, columns: Sequence[str], timeout_s: float) -> None:
        """spec: as `find_function` takes it. columns: names of the data's further columns.
        timeout_s: longest that a batch may take, and that the module may take to be imported."""
        self.name = spec
        self._columns = [*ALWAYS_GIVEN, *columns]
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._unread = b""

    def __reduce__(self) -> tuple[Any, ...]:
        """Sent elsewhere, it is the same function, and its process has yet to start."""
        return FunctionProcess, (self.name, self._columns[len(ALWAYS_GIVEN) :], self._timeout_s)

    def start(self) -> None:
        """Starts the process and asks whether it has the function. Raises UserError where the
        module cannot be imported or the function needs a column that the data do not have."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", WORKER, self.name, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._connection, self._unread = ours, b""
        said = self._ask(self._columns)
        if isinstance(said, str):
            raise UserError(f"--task.reward {self.name} cannot be imported: it {said}")
        if "error" in said:
            self.close()
            raise UserError(f"--task.reward {self.name} cannot be imported: {said['error']}")
        if said["missing"]:
            self.close()
            names = ", ".join(self._columns[len(ALWAYS_GIVEN) :]) or "none"
            raise UserError(
                f"--task.reward {self.name} takes {', '.join(said['missing'])}, and the columns of "
                f"the data beside the prompt are {names}; "
                "rename one by --data.columns, or give it a default"
            )

    def __call__(self, arguments: Arguments) -> tuple[Rewards, Faults]:
        """As `calling.call`; where the process dies or is late, every row has that fault."""
        if self._process is None:
            self.start()
        said = self._ask(arguments)
        if isinstance(said, str):
            rows = len(arguments["completions"])
            return [None] * rows, dict.fromkeys(range(rows), f"it {said}")
        return said["rewards"], {int(row): reason for row, reason in said["faults"].items()}

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, question: object) -> Any:
        """The answer; or, as a text, what became of the process instead of one."""
        assert self._connection is not None and self._process is not None
        deadline = time.monotonic() + self._timeout_s
        try:
            self._connection.settimeout(self._timeout_s)
            self._connection.sendall(json.dumps(question).encode() + b"\n")
            while b"\n" not in self._unread:
                self._connection.settimeout(max(0.001, deadline - time.monotonic()))
                received = self._connection.recv(1 << 16)
                if not received:
                    raise ConnectionError
                self._unread += received
        except TimeoutError:
            self.close()
            return f"took more than task.reward_timeout_s ({self._timeout_s:g} s) over a batch"
        except OSError:
            code = self._process.wait()
            self.close()
            return f"ended its process (exit code {code})"
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)
