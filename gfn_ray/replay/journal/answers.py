"""What the last calls to replay gave back, for callers that did not hear it.

A process that is killed between the record of a call and its reply leaves the caller without
an answer. The caller asks again under the same id, and gets the first answer: drawing twice
would give another batch, and adding twice would count as having sampled the same again.
"""

from __future__ import annotations

from typing import Any

from gfn_ray.replay.outcomes import AddReport, ReplayBatch
from gfn_ray.storage.packed import Record
from gfn_ray.storage.trajectories import from_columns, to_columns

# Answers kept of each kind of call: more than are ever under way. Batches are the bulky ones, and
# a learner waits for each.
KEPT = {"add": 256, "sample": 4, "update_priorities": 256, "clear": 4}


class Answers:
    """Answers by kind of call and id, the oldest forgotten first."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Any]] = {kind: {} for kind in KEPT}

    def has(self, kind: str, call_id: str | None) -> bool:
        return call_id in self._kept[kind]

    def of(self, kind: str, call_id: str) -> Any:
        return self._kept[kind][call_id]

    def keep(self, kind: str, call_id: str | None, answer: Any) -> None:
        """A call without an id is not asked again."""
        if call_id is None:
            return
        kept = self._kept[kind]
        kept[call_id] = answer
        if len(kept) > KEPT[kind]:
            del kept[next(iter(kept))]

    def state(self) -> Record:
        return {
            kind: {call_id: _to_wire(answer) for call_id, answer in kept.items()}
            for kind, kept in self._kept.items()
        }

    def restore(self, state: Record) -> None:
        for kind, kept in state.items():
            for call_id, wire in kept.items():
                self.keep(kind, call_id, _from_wire(kind, wire))


def _to_wire(answer: Any) -> Any:
    if isinstance(answer, AddReport):
        return vars(answer)
    if isinstance(answer, ReplayBatch):
        return {**vars(answer), "trajectories": to_columns(answer.trajectories)}
    return answer


def _from_wire(kind: str, wire: Any) -> Any:
    if kind == "add":
        return AddReport(**wire)
    if kind == "sample" and wire is not None:
        return ReplayBatch(**{**wire, "trajectories": from_columns(wire["trajectories"])})
    return wire
