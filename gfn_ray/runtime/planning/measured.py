"""Durations as a profiled run had them: each call's CPU seconds, drawn from its own record."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gfn_ray.errors import UserError
from gfn_ray.seeds import Stream, generator, seed_of

# A call's name in the trace. The first ones may still compile or warm up.
_SAMPLE, _SCORE, _LEARN = "sample a group", "score a group", "apply an update"


class MeasuredDurations:
    """Draws from the CPU seconds of a run's calls. seed: of the draws."""

    def __init__(
        self,
        sample: Sequence[float],
        score: Sequence[float],
        learn: Sequence[float],
        between: float,
        seed: int = 0,
    ) -> None:
        self._sample, self._score, self._learn = map(np.asarray, (sample, score, learn))
        self._between = between
        self._rng = generator(seed_of(Stream.PLANNED, seed))

    @staticmethod
    def read(run: Path, seed: int = 0) -> MeasuredDurations:
        """Reads the profile.json of a run's directory. Raises UserError if there is none, or it
        lacks a kind of call."""
        file = run / "profile.json"
        try:
            events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
            # The controller's work bears the names of the answers that it takes.
            works = [one for one in events if "cpu_seconds" in one["args"]]
            cpu: dict[str, list[float]] = {_SAMPLE: [], _SCORE: [], _LEARN: []}
            waits = []
            for one in works:
                if one["name"] in cpu:
                    cpu[one["name"]].append(float(one["args"]["cpu_seconds"]))
                    waits.append(float(one["args"]["until_taken_ms"]) / 1e3)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"plan.profile got {run}, where {file.name} cannot be read ({error}); give the "
                "directory of a run with --profile.seconds"
            ) from None
        if lacking := [name for name, found in cpu.items() if not found]:
            raise UserError(
                f"plan.profile got {run}, whose {file.name} has no call to {lacking[0]!r}; profile "
                "it for longer (--profile.seconds)"
            )
        between = statistics.median(waits)
        return MeasuredDurations(cpu[_SAMPLE], cpu[_SCORE], cpu[_LEARN], between, seed)

    def sample(self) -> float:
        return float(self._rng.choice(self._sample))

    def score(self) -> float:
        return float(self._rng.choice(self._score))

    def learn(self) -> float:
        return float(self._rng.choice(self._learn))

    def between(self) -> float:
        return self._between
