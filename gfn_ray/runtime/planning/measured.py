"""Durations as a profiled run had them: each call's CPU seconds, from its own record.

They depend on the policy, whose z become shorter or longer; so a call's seconds are those of one
that was made after as many updates, as long as the record has one.
"""

from __future__ import annotations

import json
import statistics
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gfn_ray.config import JobConfig
from gfn_ray.errors import UserError
from gfn_ray.settings_values import read_toml

# A call's name in the trace.
_SAMPLE, _SCORE, _LEARN = "sample a group", "score a group", "apply an update"
_CHECK = "score the engine's samples"
_CHECKPOINT, _EVALUATION = "a checkpoint", "an evaluation"


class Calls:
    """The calls of one kind. first: seconds of the first of each actor. later: of all others, in
    order, the updates that had been made before, and seconds."""

    def __init__(self, first: Sequence[float], later: Sequence[tuple[int, float]] = ()) -> None:
        self._first = first
        self._later = later or [(0, seconds) for seconds in first]
        self._used = [0] * len(self._later)
        self._first_used = 0

    def next(self, first: bool, step: int) -> float:
        """The first ones in turn. Of the others, among those made after no more updates, one that
        was used least so far, and among these the latest."""
        if first:
            self._first_used += 1
            return self._first[(self._first_used - 1) % len(self._first)]
        step = max(step, self._later[0][0])
        usable = [index for index, (made, _) in enumerate(self._later) if made <= step]
        index = min(usable, key=lambda one: (self._used[one], -one))
        self._used[index] += 1
        return self._later[index][1]


class MeasuredDurations:
    """between: seconds from a call's end until the controller has its answer. checks: of the
    learner. pauses: of training, by their names in the trace; one that the run never had counts
    nothing."""

    def __init__(
        self,
        sample: Calls,
        score: Calls,
        learn: Calls,
        between: float = 0.0,
        checks: Sequence[float] = (),
        pauses: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._sample, self._score, self._learn = sample, score, learn
        self._between, self._checks, self._pauses = between, checks, pauses

    @staticmethod
    def read(run: Path, config: JobConfig) -> MeasuredDurations:
        """Reads the profile.json of a run's directory, for a run with these settings: of a call
        with twice as many trajectories, twice the seconds. Raises UserError if there is none, or
        it lacks a kind of call."""
        file = run / "profile.json"
        recorded = read_toml(run / "config.toml", "plan.profile")
        try:
            group, batch = _sizes(config.model_dump())
            recorded_group, recorded_batch = _sizes(recorded)
            events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
            works, pauses = _works(events), _pauses(events)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"plan.profile got {run}, where {file.name} cannot be read ({error}); give the "
                "directory of a run with --profile.seconds"
            ) from None
        kinds = (_SAMPLE, _SCORE, _LEARN)
        found = {name: [one for one in works if one.name == name] for name in (*kinds, _CHECK)}
        if lacking := [name for name in kinds if not found[name]]:
            raise UserError(
                f"plan.profile got {run}, whose {file.name} has no call to {lacking[0]!r}; profile "
                "it for longer (--profile.seconds)"
            )
        sampled = sorted(found[_SAMPLE], key=attrgetter("taken"))
        scored = sorted(found[_SCORE], key=attrgetter("sent"))
        learned = found[_LEARN]
        updates = [one.taken for one in learned]
        steps = [bisect(updates, one.sent) for one in sampled]
        larger = group / recorded_group
        return MeasuredDurations(
            _calls(sampled, steps, larger),
            _calls(scored, steps, larger),  # in the order in which they were sampled
            _calls(learned, range(len(learned)), batch / recorded_batch),
            statistics.median(one.taken - one.ended for name in kinds for one in found[name]),
            [one.seconds for one in found[_CHECK]],
            pauses,
        )

    def sample(self, first: bool, step: int) -> float:
        return self._sample.next(first, step)

    def score(self, first: bool, step: int) -> float:
        return self._score.next(first, step)

    def learn(self, first: bool, step: int) -> float:
        return self._learn.next(first, step)

    def checks(self) -> Sequence[float]:
        return self._checks

    def checkpoint(self) -> float:
        return self._pauses.get(_CHECKPOINT, 0.0)

    def evaluation(self) -> float:
        return self._pauses.get(_EVALUATION, 0.0)

    def between(self) -> float:
        return self._between


@dataclass(frozen=True)
class _Work:
    """One call, with times in seconds of the trace."""

    name: str
    actor: int
    sent: float
    ended: float
    taken: float
    seconds: float


def _works(events: Sequence[dict[str, Any]]) -> list[_Work]:
    """All calls in order of time, but those that the trace's end cuts: their answers are not taken.
    The controller's work, which bears the names of the answers that it takes, has no CPU seconds.
    """
    found = []
    for event in events:
        known = event["args"]
        if "cpu_seconds" in known and known["until_taken_ms"]:
            began, ended = event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6
            sent, taken = began - known["waited_ms"] / 1e3, ended + known["until_taken_ms"] / 1e3
            seconds = float(known["cpu_seconds"])
            found.append(_Work(event["name"], event["pid"], sent, ended, taken, seconds))
    return found


def _pauses(events: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean seconds of each kind of pause of training."""
    found: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "pause":
            found.setdefault(event["name"], []).append(event["dur"] / 1e6)
    return {name: statistics.mean(seconds) for name, seconds in found.items()}


def _sizes(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Trajectories of a sampling call and of an update."""
    sampler, learner = settings["sampler"], settings["learner"]
    return (
        sampler["queries_per_call"] * sampler["trajectories_per_query"],
        learner["queries_per_step"] * learner["trajectories_per_query"],
    )


def _calls(works: Sequence[_Work], steps: Sequence[int], larger: float) -> Calls:
    """larger: what their seconds are multiplied by. Calls under way at the end may lack a step."""
    first: dict[int, float] = {}
    later = []
    for one, step in zip(works, steps, strict=False):
        seconds = larger * one.seconds
        if one.actor in first:
            later.append((step, seconds))
        else:
            first[one.actor] = seconds
    return Calls(list(first.values()), later)
