"""Cached answers of the latest calls of replay, for callers that repeat a call.

A process killed after it logged a call and before it replied leaves the caller without an answer.
The caller repeats the call with the same idempotency key and gets the first answer: drawing twice
would give another batch, and adding twice would count the same samples twice.
"""

from __future__ import annotations

from typing import Any

from gfn_ray.replay.outcomes import AddReport, ReplayBatch
from gfn_ray.storage.serialization import Record
from gfn_ray.storage.trajectories import from_columns, to_columns

# Answers kept per kind of call: more than are ever in flight. Batches are bulky, and the learner
# waits for each.
KEPT = {"add": 256, "sample": 4, "update_priorities": 256, "clear": 4}


class IdempotencyCache:
    """Answers by kind of call and idempotency key; the oldest are dropped first."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Any]] = {kind: {} for kind in KEPT}

    def has(self, kind: str, key: str | None) -> bool:
        return key in self._kept[kind]

    def answer(self, kind: str, key: str) -> Any:
        return self._kept[kind][key]

    def keep(self, kind: str, key: str | None, answer: Any) -> None:
        """Keeps an answer; a call without a key is never repeated, so its answer is not kept."""
        if key is None:
            return
        kept = self._kept[kind]
        kept[key] = answer
        if len(kept) > KEPT[kind]:
            del kept[next(iter(kept))]

    def state(self) -> Record:
        return {
            kind: {key: _to_record(answer) for key, answer in kept.items()}
            for kind, kept in self._kept.items()
        }

    def restore(self, state: Record) -> None:
        for kind, kept in state.items():
            self._kept[kind] = {key: _from_record(kind, one) for key, one in kept.items()}


def _to_record(answer: Any) -> Any:
    if isinstance(answer, AddReport):
        return vars(answer)
    if isinstance(answer, ReplayBatch):
        return {**vars(answer), "trajectories": to_columns(answer.trajectories)}
    return answer


def _from_record(kind: str, record: Any) -> Any:
    if kind == "add":
        return AddReport(**record)
    if kind == "sample" and record is not None:
        return ReplayBatch(**{**record, "trajectories": from_columns(record["trajectories"])})
    return record
