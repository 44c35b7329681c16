"""The calls that change replay, each with its own idempotency key.

A call repeated because its answer never came keeps its key, so that replay knows whether it was
already applied. Keys are unique across processes, because replay may remember calls made after the
checkpoint that a `--resume` starts from.
"""

from __future__ import annotations

import uuid
from itertools import count
from typing import Any

from gfn_ray.runtime.supervision.worker import RemoteCall


class ReplayCalls:
    """Makes calls of `ReplayActor`, which documents them."""

    def __init__(self) -> None:
        self._process = uuid.uuid4().hex
        self._numbers = count()

    def clear(self) -> RemoteCall:
        key = self._new_key()
        return lambda actor: actor.clear.remote(key)

    def add(self, block: Any) -> RemoteCall:
        key = self._new_key()
        return lambda actor: actor.add.remote(block, key)

    def sample(self, queries: int, per_query: int, version: int) -> RemoteCall:
        key = self._new_key()
        return lambda actor: actor.sample.options(num_returns=2).remote(
            queries, per_query, version, key
        )

    def update_priorities(self, slots: Any, generations: Any, losses: Any) -> RemoteCall:
        key = self._new_key()
        return lambda actor: actor.update_priorities.remote(slots, generations, losses, key)

    def _new_key(self) -> str:
        return f"{self._process}-{next(self._numbers)}"
