"""Remote calls in flight: each has an owner and a deadline.

Owns the only place where this process waits for actors, with one thread and one `ray.wait`, and
the coroutines that wait there. A call remembers how to make itself: if its actor dies or misses
the deadline, it is repeated on the successor, unnoticed by the coroutine that awaits it.

Not asyncio: between updates a run evaluates and checkpoints, waiting for calls of its own while
all other coroutines pause. Calls that finish together resume in the order they were made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any

import ray

from gfn_ray.config import RuntimeConfig
from gfn_ray.errors import RunFailed
from gfn_ray.runtime.profiling.spans import Sent
from gfn_ray.runtime.profiling.work_log import CallLog
from gfn_ray.runtime.supervision.failures import ActorLost, DataLost, making, value_of
from gfn_ray.runtime.supervision.supervisor import Supervisor, late
from gfn_ray.runtime.supervision.worker import RemoteCall, Worker, read_here

# Longest single poll; bounds how late an interrupt or a deadline is noticed.
POLL_SECONDS = 0.5


ChangesState = bool | Callable[[Any], bool]


@dataclass(eq=False)
class Call:
    """A call in flight. Awaiting it returns its value; for several return values, a tuple of the
    references of all but the last and the value of the last. Raises DataLost if its arguments are
    gone from the object store. One coroutine awaits it, before it waits for anything else: a loss
    that nobody awaits ends the run.

    reference: what `remote_call` returned; None while the worker has no live actor. sent: its
    entry in the call log, if there is one.
    """

    worker: Worker | None
    what: str
    remote_call: RemoteCall
    changes_state: ChangesState = False
    reference: Any = None
    generation: int = 0
    deadline: float = 0.0
    sent: Sent | None = None
    is_done: bool = False
    value: Any = None
    lost: DataLost | None = None
    awaited_by: Coroutine[Any, Any, None] | None = None

    @property
    def actor(self) -> str:
        return self.worker.name if self.worker is not None else "the object store"

    def __await__(self) -> Generator[Call, None, Any]:
        if not self.is_done:
            yield self
        return self.result()

    def result(self) -> Any:
        if self.lost is not None:
            raise self.lost
        return self.value


class PendingCalls:
    """Calls whose small result this process reads, and the coroutines that await them.

    log: records every call of an actor, if given.
    """

    def __init__(
        self, config: RuntimeConfig, supervisor: Supervisor, log: CallLog | None = None
    ) -> None:
        self._config = config
        self._supervisor = supervisor
        self._log = log
        self._calls: list[Call] = []

    def make(
        self,
        worker: Worker,
        what: str,
        remote_call: RemoteCall,
        *,
        changes_state: ChangesState = False,
    ) -> Call:
        """Calls an actor; `what` names the call in errors.

        changes_state: whether a successor must repeat the call once it has succeeded; a function
        of the call's value if that decides.
        """
        return self._make(Call(worker, what, remote_call, changes_state))

    def fetch(self, ref: Any, what: str) -> Call:
        """Reads an object that an actor left in the store."""
        return self._make(Call(None, what, lambda _: ref))

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Runs a coroutine that awaits calls made here up to its first wait. The rest runs inside
        `run_ready` and `run_all`, which raise what it raises."""
        self._advance(coroutine)

    def run_ready(self) -> None:
        """Waits briefly for any call, then resumes the coroutines whose calls are done."""
        if not self._calls:
            raise RunFailed(
                "no call is in flight and none may start: the rate limiter and the staleness gate "
                "wait for each other, which is a bug in gfn_ray; please report your settings"
            )
        self._supervisor.attend()
        for call in self._calls:
            if call.reference is None:
                self._issue(call)
        watched = [read_here(call.reference) for call in self._calls if call.reference is not None]
        watched += self._supervisor.references
        done: list[Any] = []
        began = time.monotonic()
        if watched:
            done, _ = ray.wait(watched, num_returns=1, timeout=POLL_SECONDS)
        else:  # every call waits for an actor that is backing off
            time.sleep(POLL_SECONDS)
        if self._log is not None:
            self._log.waited(began)
        finished = set(done)
        for call in list(self._calls):
            if call.reference is not None and read_here(call.reference) in finished:
                self._finish(call)
        self._check_deadlines()

    def run_all(self) -> None:
        """Runs until every call is done, including those that coroutines make as they run."""
        while self._calls:
            self.run_ready()

    def allow(self, seconds: float) -> None:
        """Extends every deadline by the time in which nobody polled."""
        for call in self._calls:
            call.deadline += seconds

    def _make(self, call: Call) -> Call:
        self._calls.append(call)
        self._issue(call)
        return call

    def _issue(self, call: Call) -> None:
        with making(call.actor, call.what):
            if call.worker is None:
                call.reference = call.remote_call(None)
            elif call.worker.handle is not None:
                began = time.monotonic()
                call.reference = call.remote_call(call.worker.handle)
                call.generation = call.worker.generation
                if self._log is not None:
                    ref = read_here(call.reference)
                    call.sent = self._log.sent(call.worker.name, call.what, ref, began)
        call.deadline = time.monotonic() + self._config.call_timeout_s

    def _finish(self, call: Call) -> None:
        try:
            value = value_of(read_here(call.reference), call.actor, call.what)
        except (ActorLost, DataLost) as loss:
            _note(call, lost=True)
            if call.worker is not None and isinstance(loss, ActorLost):
                self._supervisor.lost(call.worker, call.generation, str(loss))
                call.reference = None
                return
            if not isinstance(loss, DataLost):
                raise RunFailed(str(loss)) from loss
            call.lost = loss
        else:
            _note(call)
            if call.worker is not None:
                call.worker.failures_in_a_row = 0
                changes = call.changes_state
                if changes(value) if callable(changes) else changes:
                    call.worker.changed_by(call.remote_call)
            several = isinstance(call.reference, list)
            call.value = (*call.reference[:-1], value) if several else value
        self._calls.remove(call)
        call.is_done = True
        if call.awaited_by is not None:
            self._advance(call.awaited_by)
        elif call.lost is not None:
            raise call.lost.ends_the_run() from call.lost

    def _advance(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            call: Call = coroutine.send(None)
        except StopIteration:
            return
        except DataLost as loss:
            raise loss.ends_the_run() from loss
        assert call.awaited_by is None, f"two coroutines await {call.what!r}"
        call.awaited_by = coroutine

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        for call in self._calls:
            if call.reference is None or now <= call.deadline:
                continue
            sentence = late(call.actor, call.what, self._config, "call_timeout_s")
            if call.worker is None:
                raise RunFailed(sentence)
            _note(call, lost=True)
            self._supervisor.lost(call.worker, call.generation, sentence)
            call.reference = None


def _note(call: Call, lost: bool = False) -> None:
    """Logs that a call was answered, or that it was lost."""
    if call.sent is not None:
        call.sent.taken, call.sent.lost = time.monotonic(), lost
