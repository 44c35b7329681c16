"""Non-finite batches: batches that are dropped because a number in them is NaN or infinite.

Counts them, writes each to a file for inspection, and ends a run with a diagnosis after too many in
a row. A batch is the unit that is dropped: an update's trajectories, or the z of one query in one
sampling call. The run continues without it.

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

# Keeps the newest, because the diagnosis at the end of a run points to one of them.
FILES_KEPT = 20

Kind = Literal["update", "SFT update", "group", "measurement"]

_FINITE_REWARD = (
    "give every z that may stop a finite log R; if it should be rare, a floor such as 20 nats "
    "below all else, not -inf"
)

_OWN_REASON = "mend what this says, for only a finite log R can be learned from"


@dataclass(frozen=True)
class NonFiniteBatch:
    """kind: what was dropped. known: further numbers of each trajectory [B], by name."""

    kind: Kind
    reason: str
    trajectories: Sequence[Trajectory]
    known: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NonFiniteReport:
    """The record of a non-finite batch. number: counts those of the run. step: updates applied by
    then."""

    number: int
    step: int
    kind: Kind
    reason: str
    file: Path


class NonFiniteBatches:
    """decode: token ids to text. step: returns the number of updates applied. record: called with
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
        self._reasons: dict[Kind, list[str]] = defaultdict(list)  # of the current row
        self.total = 0

    def usable(self, kind: Kind) -> None:
        """Records a finite batch, which ends a row of non-finite ones of its kind."""
        self._reasons[kind].clear()

    def dropped(self, batch: NonFiniteBatch) -> None:
        """Counts a batch and writes it to a file. Raises RunFailed if it is one too many."""
        file = self._put_down(batch)
        reasons = self._reasons[batch.kind]
        reasons.append(batch.reason)
        if len(reasons) >= self._config.runtime.max_nonfinite_batches:
            raise RunFailed(self._diagnosis(batch.kind, file))

    def sift(self, scored: Sequence[Trajectory], faults: Mapping[int, str]) -> list[Trajectory]:
        """Returns the trajectories of a sampling call without the groups that have a fault.

        faults: what is wrong with a trajectory, by position.
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
        """Raises RunFailed if there is a fault: no mean may leave out a sample."""
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
        # One line per z, so that people can read it; still valid JSON.
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
            # By prefix; null where z may not stop.
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
    "SFT update": "SFT updates",
    "group": "groups of samples",
}


def _cure(reason: str) -> str:
    """What mends a group or a measurement without a log R."""
    return _FINITE_REWARD if reason.startswith("log R is") else _OWN_REASON


def _number(value: Any) -> float | str:
    """A JSON value; NaN and infinity, which JSON does not have, become their names."""
    plain = float(np.asarray(value))
    return plain if math.isfinite(plain) else str(plain)
