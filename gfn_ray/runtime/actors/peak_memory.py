"""The most memory that each process of a run has had.

Owns when actors are asked, and what is kept of their answers. The kernel keeps a process's peak
only as long as the process: so actors are asked now and then, and what one that died had said is
not forgotten. Nobody waits for an answer, but at the end. Actors begin no processes of their own:
vLLM's engine runs in its actor, and so does a tool.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from gfn_ray.runtime.actors.worker import Worker

# For actors that have nothing to do any more: what has not answered by then keeps its last answer.
LAST_ANSWER_S = 10.0


class PeakMemory:
    """Peaks by process, in MiB of resident memory. Pages of a file that several processes have
    mapped, those of a model's weights among them, count for each."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._members = workers
        self._asked: dict[Any, str] = {}
        self._peaks: dict[str, float] = {}

    def ask(self) -> None:
        """Asks every actor that is up, and takes the answers that have come since."""
        self._take(0.0)
        for worker in self._members:
            if worker.handle is not None:
                name = worker.name.removeprefix("the ").replace(" ", "_")
                self._asked[worker.handle.__ray_call__.remote(_peak_mib)] = name

    def so_far(self) -> dict[str, float]:
        """By actor, "sampler_0" and so on; this process is the controller."""
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
            with suppress(RayError):  # it has died since
                self._peaks[name] = max(
                    self._peaks.get(name, 0.0), ray.get(answer, timeout=LAST_ANSWER_S)
                )


def _peak_mib(_: Any = None) -> float:
    """Of the process that runs this; the argument is its actor."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None, "Linux tells VmHWM of every process"
    return int(found[1]) / 1024
