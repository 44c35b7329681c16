"""One actor of a run, and its successors: how it is made, and made again as it was.

Owns an actor's handle and its journal: the state that was last saved, and the calls that have
changed it since. A successor loads, takes over that state and repeats those calls, so that
nobody else has to know that a process died. Decides nothing; the supervisor does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from gfn_ray.runtime.actors.failures import making

RemoteCall = Callable[[Any], Any]
"""A remote call, given the actor's handle. Returns its reference, or a list of several of which
the last one's value is to be read here."""


class Worker:
    """name: as errors and logs say it, "sampler 0". create: a new actor's handle."""

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
        """Makes the actor and has it load its model; returns the reference of that call."""
        self.generation += 1
        with making(self.name, "load its model"):
            self._starting = self._create()
            return self._starting.load.remote()

    def loaded(self) -> list[Any]:
        """References of the calls that make it what its predecessor was, in their order."""
        issues = [*([self._saved] if self._saved else []), *self._since]
        with making(self.name, "take up its work again"):
            return [read_here(remote_call(self._starting)) for remote_call in issues]

    def up(self) -> None:
        """It may be called."""
        self.handle = self._starting
        self.has_loaded = True

    def end(self) -> None:
        """Kills the process, whatever it is doing; one that is dead already may be ended too."""
        self.handle = None
        ray.kill(self._starting)

    def changed_by(self, remote_call: RemoteCall) -> None:
        """A call has changed its state."""
        self._since.append(remote_call)

    def saved(self, restore: RemoteCall) -> None:
        """Its present state is safe, and `restore` brings it back: older calls are forgotten."""
        self._saved = restore
        self._since = []

    @property
    def repeats(self) -> int:
        """Calls that a successor has to make before it may be called."""
        return len(self._since) + (self._saved is not None)


def read_here(result: Any) -> Any:
    """The reference whose value is to be read here, of what an `RemoteCall` returned."""
    return result[-1] if isinstance(result, list) else result
