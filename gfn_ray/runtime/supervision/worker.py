"""One actor of a run and its successors: how to create it and how to restore its state.

Owns an actor's handle and its journal: the last saved state, and the calls that have changed it
since. A successor loads, restores that state and repeats those calls, so that nobody else has to
know that a process died. The supervisor decides when.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from gfn_ray.runtime.supervision.failures import making

RemoteCall = Callable[[Any], Any]
"""Makes a remote call on an actor's handle. Returns its reference, or a list of references, the
last of which is read by this process."""


class Worker:
    """name: used in errors and logs, such as "sampler 0". create: makes a new actor's handle."""

    def __init__(self, name: str, create: Callable[[], Any]) -> None:
        self.name = name
        self._create = create
        self._saved: RemoteCall | None = None
        self._since: list[RemoteCall] = []
        self.handle: Any = None
        self.generation = 0
        self.failures_in_a_row = 0
        self.has_loaded = False

    def start(self) -> Any:
        """Creates the actor and makes it load its model; returns the reference of that call."""
        self.generation += 1
        with making(self.name, "load its model"):
            self._starting = self._create()
            return self._starting.load.remote()

    def loaded(self) -> list[Any]:
        """Makes the calls that restore its predecessor's state, in order; returns references."""
        issues = [*([self._saved] if self._saved else []), *self._since]
        with making(self.name, "restore its state"):
            return [read_here(remote_call(self._starting)) for remote_call in issues]

    def up(self) -> None:
        """Marks the actor as ready to be called."""
        self.handle = self._starting
        self.has_loaded = True

    def end(self) -> None:
        """Kills the process, whatever it is doing; it may be dead already."""
        self.handle = None
        ray.kill(self._starting)

    def changed_by(self, remote_call: RemoteCall) -> None:
        """Records a call that has changed its state."""
        self._since.append(remote_call)

    def saved(self, restore: RemoteCall) -> None:
        """Records that `restore` brings back its current state; drops the calls before it."""
        self._saved = restore
        self._since = []

    @property
    def repeats(self) -> int:
        """Number of calls that restore a successor's state."""
        return len(self._since) + (self._saved is not None)


def read_here(result: Any) -> Any:
    """The reference that this process reads, from what a `RemoteCall` returned."""
    return result[-1] if isinstance(result, list) else result
