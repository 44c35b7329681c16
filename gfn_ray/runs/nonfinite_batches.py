"""Batches that cannot be used, since a number in them is NaN or infinite.

Owns their count, the files that a person may look into, and the end of a run that meets too
many in a row, with a diagnosis. A batch is what is dropped whole: an update's trajectories, or
the z of one query that came from a sampler together. Whoever met one goes on without it.

    RUN_DIR/nonfinite_batches/000001.json     reason, and every z with its text and numbers
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gfn_ray.config import JobConfig
from gfn_ray.errors import RunFailed
from gfn_ray.storage.atomic import atomic_file
from gfn_ray.trajectory import Trajectory

# The newest are kept: an ending run's diagnosis points to one of them.
FILES_KEPT = 20

Kind = Literal["update", "SFT update", "group", "measurement"]

_FINITE_REWARD = (
    "give every z that may stop a finite log R, such as a floor 20 nats below all else, not "
    "-inf, where it should be rare"
)

_OWN_REASON = "mend what this says, for only a finite log R can be learned from"


@dataclass(frozen=True)
class NonFiniteBatch:
    """kind: what was dropped. known: by name, further numbers of each trajectory [B]."""

    kind: Kind
    reason: str
    trajectories: Sequence[Trajectory]
    known: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NonFiniteReport:
    """A non-finite batch in the records of a run. number: its place among those of the run. step:
    updates done by then."""

    number: int
    step: int
    kind: Kind
    reason: str
    file: Path


class NonFiniteBatches:
    """decode: the text of token ids. step: how many updates are done. record: what to do with
    each report."""

    def __init__(
        self,
        config: JobConfig,
        directory: Path,
        decode: Callable[[Any], str],
        step: Callable[[], int],
        record: Callable[[NonFiniteReport], None],
    ) -> None:
        self._config = config
        self._directory = directory
        self._decode = decode
        self._step = step
        self._record = record
        self._reasons: dict[Kind, list[str]] = defaultdict(list)  # of those in a row
        self.total = 0

    def usable(self, kind: Kind) -> None:
        """A batch of this kind had no fault: what comes next begins a new row."""
        self._reasons[kind].clear()

    def dropped(self, batch: NonFiniteBatch) -> None:
        """Counts a batch and writes it down. Raises RunFailed where it is one too many."""
        file = self._put_down(batch)
        reasons = self._reasons[batch.kind]
        reasons.append(batch.reason)
        if len(reasons) >= self._config.runtime.max_nonfinite_batches:
            raise RunFailed(self._diagnosis(batch.kind, file))

    def sift(self, scored: Sequence[Trajectory], faults: Mapping[int, str]) -> list[Trajectory]:
        """The trajectories of a sampling call without the groups that hold a fault.

        faults: by a trajectory's place, what is wrong with it.
        """
        kept: list[Trajectory] = []
        for _, members in groupby(enumerate(scored), key=lambda pair: pair[1].query_id):
            places, group = zip(*members, strict=True)
            reason = next((faults[place] for place in places if place in faults), None)
            if reason is None:
                self.usable("group")
                kept += group
            else:
                self.dropped(NonFiniteBatch("group", reason, group))
        return kept

    def check_measured(self, scored: Sequence[Trajectory], faults: Mapping[int, str]) -> None:
        """Raises RunFailed where there is a fault: no mean may leave a sample out."""
        if not faults:
            return
        place, reason = next(iter(faults.items()))
        ids = {scored[index].query_id for index in faults}
        own = [one for one in scored if one.query_id in ids]
        file = self._put_down(NonFiniteBatch("measurement", reason, own))
        text = self._decode(scored[place].token_ids)
        raise RunFailed(
            f"{reason} for the z {text!r} of the held-out query {scored[place].query_id!r}, and "
            f"no measurement may leave a z out (see {file}); {_cure(reason)}"
        )

    def _diagnosis(self, kind: Kind, file: Path) -> str:
        reasons = self._reasons[kind]
        found = ", ".join(f"{reason} ({n} x)" for reason, n in Counter(reasons).most_common())
        return (
            f"{len(reasons)} {_PLURAL[kind]} in a row were dropped, as many as "
            f"runtime.max_nonfinite_batches allows: {found}; the last is in {file}; "
            f"{self._remedy(kind)}"
        )

    def _remedy(self, kind: Kind) -> str:
        learner, reward = self._config.learner, self._config.reward
        if kind == "group":
            return _cure(self._reasons[kind][-1])
        rate = (
            f"learner.lr ({learner.lr:g})"
            if kind == "update"
            else f"sft.lr ({self._config.sft.lr:g})"
        )
        advice = [f"lower {rate} or learner.max_grad_norm ({learner.max_grad_norm:g})"]
        if kind == "update":
            advice.append(f"raise reward.temperature_end ({reward.temperature_end:g})")
        if learner.precision != "float32":
            advice.append(f"set learner.dtype to float32 ({learner.precision})")
        return ", or ".join(advice)

    def _put_down(self, batch: NonFiniteBatch) -> Path:
        self.total += 1
        file = self._write(batch)
        self._record(NonFiniteReport(self.total, self._step(), batch.kind, batch.reason, file))
        return file

    def _write(self, batch: NonFiniteBatch) -> Path:
        self._directory.mkdir(exist_ok=True)
        before = sorted(self._directory.glob("*.json"))
        number = int(before[-1].stem) + 1 if before else 1
        file = self._directory / f"{number:06d}.json"
        head = {"dropped": batch.kind, "after_update": self._step(), "reason": batch.reason}
        rows = [
            self._row(one, {name: values[i] for name, values in batch.known.items()})
            for i, one in enumerate(batch.trajectories)
        ]
        # A line for each z: that is how a person reads it, and JSON all the same.
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        with atomic_file(file) as temp:
            temp.write_text(
                f'{json.dumps(head)[:-1]}, "trajectories": [\n{lines}\n]}}\n', encoding="utf-8"
            )
        for old in before[: max(0, len(before) + 1 - FILES_KEPT)]:
            old.unlink()
        return file

    def _row(self, one: Trajectory, known: Mapping[str, Any]) -> dict[str, Any]:
        log_reward = one.log_reward
        return {
            "query_id": one.query_id,
            "text": self._decode(one.token_ids),
            "token_ids": one.token_ids.tolist(),
            # Prefix by prefix: null where z may not stop.
            "log_reward": None
            if log_reward is None
            else [
                _number(value) if may_stop else None
                for value, may_stop in zip(log_reward, one.terminable, strict=True)
            ],
            **{name: _number(value) for name, value in known.items()},
            "proposal": one.proposal,
            "policy_version": one.policy_version,
            "temperature": one.temperature,
            "epsilon": one.epsilon,
            "stopped": one.stopped,
        }


_PLURAL: dict[Kind, str] = {
    "update": "updates",
    "SFT update": "updates of the SFT",
    "group": "groups of samples",
}


def _cure(reason: str) -> str:
    """What mends a group or a measurement without a log R."""
    return _FINITE_REWARD if reason.startswith("log R is") else _OWN_REASON


def _number(value: Any) -> float | str:
    """As JSON can hold it, which has no NaN and no infinity: those by name."""
    plain = float(np.asarray(value))
    return plain if math.isfinite(plain) else str(plain)
