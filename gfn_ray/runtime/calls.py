"""Remote calls under way: every one has an owner, a deadline and a handler.

Owns the only place where this process waits for actors. A call says how it is made, not only
that it was: where its actor dies or passes the limit, it is made again on the successor.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from gfn_ray.config import RuntimeConfig
from gfn_ray.errors import RunFailed
from gfn_ray.runtime.failures import ActorLost, DataLost, making, value_of
from gfn_ray.runtime.members import Issue, Member, read_here
from gfn_ray.runtime.spans import Sent
from gfn_ray.runtime.supervisor import Supervisor, late
from gfn_ray.runtime.work_log import CallLog

# How long one poll may last; bounds how late an interrupt or a deadline is noticed.
POLL_SECONDS = 0.5


ChangesState = bool | Callable[[Any], bool]


@dataclass(eq=False)
class _Call:
    """result: what `issue` returned; None while the member has no actor to be called. sent: what
    the log has of it, where there is one."""

    member: Member | None
    what: str
    issue: Issue
    then: Callable[..., None]
    lost: Callable[[], None] | None
    changes_state: ChangesState
    result: Any = None
    generation: int = 0
    deadline: float = 0.0
    sent: Sent | None = None

    @property
    def actor(self) -> str:
        return self.member.name if self.member is not None else "the object store"


class PendingCalls:
    """Calls whose small result this process reads, each followed by its handler.

    log: where every call of an actor is written down, if anywhere.
    """

    def __init__(
        self, config: RuntimeConfig, supervisor: Supervisor, log: CallLog | None = None
    ) -> None:
        self._config = config
        self._supervisor = supervisor
        self._log = log
        self._calls: list[_Call] = []

    def add(
        self,
        member: Member,
        what: str,
        issue: Issue,
        then: Callable[..., None],
        *,
        lost: Callable[[], None] | None = None,
        changes_state: ChangesState = False,
    ) -> None:
        """Makes a call of an actor; `what` names it in errors.

        then: gets its value; where the call returns several, the references of the others come
        first. lost: what to do instead where the data it was given is gone from the object
        store; without it that ends the run. changes_state: the actor's successor has to repeat
        it, once it has succeeded; where the value says whether it did, a function of that.
        """
        self._make(_Call(member, what, issue, then, lost, changes_state))

    def fetch(
        self,
        ref: Any,
        what: str,
        then: Callable[[Any], None],
        *,
        lost: Callable[[], None] | None = None,
    ) -> None:
        """Reads an object that an actor left in the store; then and lost as in `add`."""
        self._make(_Call(None, what, lambda _: ref, then, lost, changes_state=False))

    def run_ready(self) -> None:
        """Waits briefly for any call, then runs the handlers of those that are done."""
        if not self._calls:
            raise RunFailed(
                "nothing is under way and nothing may start: the rate limiter and the lag gate "
                "wait for each other, which is a fault of gfn_ray; please report the settings"
            )
        self._supervisor.attend()
        for call in self._calls:
            if call.result is None:
                self._issue(call)
        watched = [read_here(call.result) for call in self._calls if call.result is not None]
        watched += self._supervisor.references
        done: list[Any] = []
        began = time.monotonic()
        if watched:
            done, _ = ray.wait(watched, num_returns=1, timeout=POLL_SECONDS)
        else:  # all that is under way waits for an actor whose back-off is not over
            time.sleep(POLL_SECONDS)
        if self._log is not None:
            self._log.waited(began)
        finished = set(done)
        for call in list(self._calls):
            if call.result is not None and read_here(call.result) in finished:
                self._finish(call)
        self._check_deadlines()

    def run_all(self) -> None:
        """Runs until every call, and every call its handler adds, is done."""
        while self._calls:
            self.run_ready()

    def allow(self, seconds: float) -> None:
        """Gives every call under way more time: nobody was looking for this long."""
        for call in self._calls:
            call.deadline += seconds

    def _make(self, call: _Call) -> None:
        self._calls.append(call)
        self._issue(call)

    def _issue(self, call: _Call) -> None:
        with making(call.actor, call.what):
            if call.member is None:
                call.result = call.issue(None)
            elif call.member.handle is not None:
                began = time.monotonic()
                call.result = call.issue(call.member.handle)
                call.generation = call.member.generation
                if self._log is not None:
                    ref = read_here(call.result)
                    call.sent = self._log.sent(call.member.name, call.what, ref, began)
        call.deadline = time.monotonic() + self._config.call_timeout_s

    def _finish(self, call: _Call) -> None:
        try:
            value = value_of(read_here(call.result), call.actor, call.what)
        except ActorLost as loss:
            if call.member is None:
                raise RunFailed(str(loss)) from loss
            _note(call, lost=True)
            self._supervisor.lost(call.member, call.generation, str(loss))
            call.result = None
            return
        except DataLost as loss:
            _note(call, lost=True)
            self._calls.remove(call)
            if call.lost is None:
                raise loss.ends_the_run() from loss
            call.lost()
            return
        _note(call)
        self._calls.remove(call)
        if call.member is not None:
            call.member.failures_in_a_row = 0
            changes = call.changes_state
            if changes(value) if callable(changes) else changes:
                call.member.changed_by(call.issue)
        others = call.result[:-1] if isinstance(call.result, list) else []
        call.then(*others, value)

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        for call in self._calls:
            if call.result is None or now <= call.deadline:
                continue
            sentence = late(call.actor, call.what, self._config, "call_timeout_s")
            if call.member is None:
                raise RunFailed(sentence)
            _note(call, lost=True)
            self._supervisor.lost(call.member, call.generation, sentence)
            call.result = None


def _note(call: _Call, lost: bool = False) -> None:
    """Writes down that there is an answer, or that there will be none."""
    if call.sent is not None:
        call.sent.taken, call.sent.lost = time.monotonic(), lost
