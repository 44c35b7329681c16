"""The learner's other ranks: actors that the learner makes, and that do as it does.

To everybody else the learner is one actor. It makes the others in bundles next to its own and hands
on every call that needs them, and they end together: a dead rank fails the next exchange, the
learner ends its process, Ray ends the actors that it made, and the supervisor starts it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util import get_node_ip_address

from gfn_ray.config import RuntimeConfig
from gfn_ray.errors import RunFailed
from gfn_ray.learners.ranks import LOOPBACK, Place, Together, end_process, lost_a_rank, open_store


class OtherRanks:
    """Rank 0's view of the others. actors: in the order of their ranks; there may be none.

    ranks: set once all have joined; from then on none can go on without the others.
    """

    def __init__(self, config: RuntimeConfig, actors: Sequence[Any]) -> None:
        self._config = config
        self._actors = list(actors)
        self._store: Any = None
        self.ranks: Together | None = None

    @contextmanager
    def doing(self, method: str, *arguments: Any) -> Iterator[None]:
        """Makes the other ranks do the same while this one does it, and waits for them. Ends this
        process if one is lost; raises what one of them raised."""
        if not self._actors:
            yield
            return
        asked = [actor.follow.remote(method, *arguments) for actor in self._actors]
        try:
            yield
            self._answers(asked)
        except Exception as error:
            reason = self.ranks.reported() if self.ranks else None
            if reason is not None:
                raise RuntimeError(f"another learner failed: {reason}") from error
            if isinstance(error, RayActorError) or lost_a_rank(error):
                end_process(error)
            raise

    def each(self, function: Callable[[Any], Any]) -> list[Any]:
        """What a function of the actor returns in the process of each."""
        return self._answers([actor.__ray_call__.remote(function) for actor in self._actors])

    def _answers(self, asked: list[Any]) -> list[Any]:
        setting = "call_timeout_s" if self.ranks else "start_timeout_s"
        limit = getattr(self._config, setting)
        try:
            found: list[Any] = ray.get(asked, timeout=limit)
        except GetTimeoutError:
            raise RunFailed(
                f"another learner did not answer within {limit:g} s (if it is only slow, raise "
                f"runtime.{setting})"
            ) from None
        return found

    def place(self) -> Place | None:
        """Opens the place where the ranks find each other; None if there is one rank only. On one
        machine, it and all of their exchanges stay on the loopback address."""
        if not self._actors:
            return None
        found = [where(), *self._answers([actor.where.remote() for actor in self._actors])]
        together = len({machine for machine, _ in found}) == 1
        addresses = tuple(LOOPBACK if together else address for _, address in found)
        self._store = open_store(addresses[0], self._config.start_timeout_s)
        return Place(addresses[0], self._store.port, addresses, self._config.call_timeout_s)


def where() -> tuple[str, str]:
    """The machine on which this process runs, and its address."""
    return ray.get_runtime_context().get_node_id(), get_node_ip_address()


def on_every_rank(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of the learner that every rank carries out, with the same arguments."""

    @wraps(method)
    def together(self: Any, *arguments: Any) -> Any:
        with self.others.doing(method.__name__, *arguments):
            return method(self, *arguments)

    return together


def on_every_shard(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that only reads log q: every rank carries it out if each has a part of the model
    only, else rank 0 alone."""

    @wraps(method)
    def together(self: Any, *arguments: Any) -> Any:
        if not self.shards:
            return method(self, *arguments)
        with self.others.doing(method.__name__, *arguments):
            return method(self, *arguments)

    return together
