"""Gives cores to the actors that need them: all to an actor that works alone, otherwise shares
measured once, over the first updates.

Owns when actors are asked for their CPU seconds and told their number of threads. threads.py
computes the numbers; an actor's successor starts with the current one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from gfn_ray.formatting import count
from gfn_ray.runtime.actors.worker_group import WorkerGroup
from gfn_ray.runtime.supervision.worker import Worker

# Updates measured, after the first: by then every stage has work, and a few average out.
MEASURED_UPDATES = 5


class ThreadBalance:
    """say: shows a line of text."""

    def __init__(self, workers: WorkerGroup, say: Callable[[str], None]) -> None:
        self._workers = workers
        self._say = say
        self._updates = 0
        self._before: dict[str, float] = {}
        self._generations: list[int] = []

    def after_update(self) -> None:
        if not self._workers.threads.undivided:
            return
        self._updates += 1
        if self._updates == 1:
            self._before, _ = self._used()
            self._generations = self._now_running()
        elif self._generations != self._now_running():
            self._updates = 0  # a new process counts from zero: measure again
        elif self._updates > MEASURED_UPDATES:
            self._divide()

    def _divide(self) -> None:
        used, machines = self._used()
        if self._generations != self._now_running():
            self._updates = 0
            return
        needs = {name: used[name] - self._before[name] for name in used}
        threads = self._workers.threads
        threads.share_out(needs, machines)
        _tell(self._workers, self._workers.with_models)
        whole = sum(needs.values()) or 1.0
        shares = ", ".join(
            f"{name} {threads.of(name)} ({need / whole:.0%})"
            for name, need in needs.items()
            if name in threads.automatic
        )
        updates = count(MEASURED_UPDATES, "update")
        self._say(f"threads by share of the CPU seconds of {updates}: {shares}")

    def _used(self) -> tuple[dict[str, float], dict[str, str]]:
        """CPU seconds of each actor with a model, and its machine."""
        found = self._workers.ask_each(
            self._workers.with_models,
            "tell its CPU seconds",
            lambda actor: actor.cpu_seconds.remote(),
        )
        used = {name: seconds for name, (seconds, _) in found.items()}
        return used, {name: machine for name, (_, machine) in found.items()}

    def _now_running(self) -> list[int]:
        return [worker.generation for worker in self._workers.with_models]


@contextmanager
def left_to(workers: WorkerGroup, worker: Worker) -> Iterator[None]:
    """Gives all cores to this actor while no other has work."""
    workers.threads.leave_to(worker.name)
    _tell(workers, [worker])
    yield
    # Not in a finally: a failure ends the run.
    workers.threads.leave_to(None)
    _tell(workers, [worker])


def _tell(workers: WorkerGroup, told: Iterable[Worker]) -> None:
    calls, threads = workers.calls(), workers.threads
    for worker in told:
        if worker.name in threads.automatic:
            use = partial(_use_threads, threads.of(worker.name))
            calls.make(worker, "change its threads", use)
    calls.run_all()


def _use_threads(number: int, actor: Any) -> Any:
    return actor.use_threads.remote(number)
