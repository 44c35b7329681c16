"""The peak memory of each process of a run, and its CPU seconds.

The kernel forgets both when the process ends, so actors are asked now and then, and the last answer
of one that died is kept. Nothing waits for the answers until the end of the run. A learner of
several ranks counts as their sum. Otherwise actors start no processes of their own: vLLM's engine
and tools run inside their actor; parts of a tensor-parallel engine are not counted.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError

from gfn_ray.runtime.supervision.worker import Worker

# At the end of a run, when actors are idle; one that is late keeps its last answer.
LAST_ANSWER_S = 10.0


class Use(NamedTuple):
    """peak_mib: resident memory; file pages that several processes map, such as model weights,
    count for each. cpu_seconds: since the process began; of an actor that was restarted, those of
    the process that used most."""

    peak_mib: float
    cpu_seconds: float


class ProcessUse:
    """What each process has used so far."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self._asked: dict[Any, str] = {}
        self._known: dict[str, Use] = {}

    def ask(self) -> None:
        """Asks every live actor, and collects earlier answers."""
        self._take(0.0)
        for worker in self._workers:
            if worker.handle is not None:
                name = worker.name.removeprefix("the ").replace(" ", "_")
                self._asked[worker.handle.__ray_call__.remote(_use)] = name

    def so_far(self) -> dict[str, Use]:
        """By actor, "sampler_0" and so on; this process is "controller"."""
        self.ask()
        self._take(LAST_ANSWER_S)
        return {**self._known, "controller": _use()}

    def _take(self, patience: float) -> None:
        if not self._asked:
            return
        asked = list(self._asked)
        done, _ = ray.wait(asked, num_returns=len(asked), timeout=patience)
        for answer in done:
            name = self._asked.pop(answer)
            with suppress(RayError):  # the actor died
                found = ray.get(answer, timeout=LAST_ANSWER_S)
                known = self._known.get(name, Use(0.0, 0.0))
                self._known[name] = Use(*map(max, found, known))


def _use(actor: Any = None) -> Use:
    """Of the process that runs this, and of the other ranks of its actor, if any."""
    others = getattr(actor, "others", None)
    each = [_own(), *([] if others is None else others.each(_use))]
    return Use(sum(one.peak_mib for one in each), sum(one.cpu_seconds for one in each))


def _own() -> Use:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None, "Linux reports VmHWM of every process"
    return Use(int(found[1]) / 1024, time.process_time())
