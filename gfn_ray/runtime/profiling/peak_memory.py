"""The peak memory of each process of a run.

The kernel forgets a process's peak when the process ends, so actors are asked now and then, and the
last answer of one that died is kept. Nothing waits for the answers until the end of the run. A
learner of several ranks counts as their sum. Otherwise actors start no processes of their own:
vLLM's engine and tools run inside their actor; parts of a tensor-parallel engine are not counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from gfn_ray.runtime.supervision.worker import Worker

# At the end of a run, when actors are idle; one that is late keeps its last answer.
LAST_ANSWER_S = 10.0


class PeakMemory:
    """Peak resident memory per process, in MiB. File pages that several processes map, such as
    model weights, count for each."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers
        self._asked: dict[Any, str] = {}
        self._peaks: dict[str, float] = {}

    def ask(self) -> None:
        """Asks every live actor for its peak, and collects earlier answers."""
        self._take(0.0)
        for worker in self._workers:
            if worker.handle is not None:
                name = worker.name.removeprefix("the ").replace(" ", "_")
                self._asked[worker.handle.__ray_call__.remote(_peak_mib)] = name

    def so_far(self) -> dict[str, float]:
        """Peaks by actor, "sampler_0" and so on; this process is "controller"."""
        self.ask()
        self._take(LAST_ANSWER_S)
        return {**self._peaks, "controller": _peak_mib()}

    def _take(self, patience: float) -> None:
        if not self._asked:
            return
        asked = list(self._asked)
        done, _ = ray.wait(asked, num_returns=len(asked), timeout=patience)
        for answer in done:
            name = self._asked.pop(answer)
            with suppress(RayError):  # the actor died
                self._peaks[name] = max(
                    self._peaks.get(name, 0.0), ray.get(answer, timeout=LAST_ANSWER_S)
                )


def _peak_mib(actor: Any = None) -> float:
    """Peak memory of the process that runs this, and of the other ranks of its actor, if any."""
    others = getattr(actor, "others", None)
    return _own_mib() + (0.0 if others is None else sum(others.each(_peak_mib)))


def _own_mib() -> float:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None, "Linux reports VmHWM of every process"
    return int(found[1]) / 1024
