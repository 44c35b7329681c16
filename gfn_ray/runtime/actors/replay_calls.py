"""The calls that change replay, as they are made: each under an id of its own.

A call that is made again, since its answer never came, keeps its id, so that replay knows
whether it was applied. Ids of another process, that of a run before `--resume` say, never
come up again: replay may remember later calls than the checkpoint does.
"""

from __future__ import annotations

import uuid
from itertools import count
from typing import Any

from gfn_ray.runtime.actors.members import Issue


class ReplayCalls:
    """See `ReplayActor` for what each does."""

    def __init__(self) -> None:
        self._process = uuid.uuid4().hex
        self._numbers = count()

    def clear(self) -> Issue:
        call_id = self._new_id()
        return lambda actor: actor.clear.remote(call_id)

    def add(self, block: Any) -> Issue:
        call_id = self._new_id()
        return lambda actor: actor.add.remote(block, call_id)

    def sample(self, queries: int, per_query: int, version: int) -> Issue:
        call_id = self._new_id()
        return lambda actor: actor.sample.options(num_returns=2).remote(
            queries, per_query, version, call_id
        )

    def update_priorities(self, slots: Any, generations: Any, losses: Any) -> Issue:
        call_id = self._new_id()
        return lambda actor: actor.update_priorities.remote(slots, generations, losses, call_id)

    def _new_id(self) -> str:
        return f"{self._process}-{next(self._numbers)}"
