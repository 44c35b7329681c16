"""Profiles a window of training and writes its trace and its time table.

The window of the table starts after the first update, when every stage has work. The trace also
has what came before in training, where calls are slower: their code and memory are new.
"""

from __future__ import annotations

import time
from bisect import bisect
from collections.abc import Callable
from operator import itemgetter

from gfn_ray.config import ProfileConfig
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.runtime.actors.worker_group import WorkerGroup
from gfn_ray.runtime.profiling.spans import Interval, Span, clip, gaps, merge
from gfn_ray.runtime.profiling.time_table import actor_rows, controller_row, table
from gfn_ray.runtime.profiling.trace import trace
from gfn_ray.runtime.profiling.work_log import CallLog, machine


class Profiler:
    """One window of one run. log: the call log of `workers`. say: shows lines of text."""

    def __init__(
        self,
        config: ProfileConfig,
        workers: WorkerGroup,
        log: CallLog,
        directory: RunDir,
        say: Callable[[str], None],
    ) -> None:
        self._config = config
        self._workers = workers
        self._log = log
        self._directory = directory
        self._say = say
        self._training_began = 0.0
        self._began: float | None = None
        self._cpu = 0.0
        self._done = False
        self._pauses: list[tuple[str, Interval]] = []

    def training_begins(self) -> None:
        """Starts the trace."""
        self._log.begin_anew()
        self._training_began = time.monotonic()

    def paused(self, why: str, began: float) -> None:
        """Notes that the controller has done something else between updates, until now. began: on
        the monotonic clock."""
        self._pauses.append((why, (began, time.monotonic())))

    def after_update(self) -> bool:
        """Starts the window, or ends it if it is full; returns whether it is over."""
        if self._began is None:
            self._began, self._cpu = time.monotonic(), time.process_time()
        elif time.monotonic() >= self._began + self._config.seconds:
            self.end()
        return self._done

    def end(self) -> None:
        """Writes the window so far, unless it is already written or never started."""
        if self._done or self._began is None:
            return
        self._done = True
        now, cpu = time.monotonic(), time.process_time() - self._cpu
        window = (self._began, min(now, self._began + self._config.seconds))
        self._log.close()
        spans = self._spans(now)
        traced = (self._training_began, window[1])
        clipped = {
            actor: [piece for span in own if (piece := span.within(traced)) is not None]
            for actor, own in spans.items()
        }
        pauses = [(why, within) for why, one in self._pauses if (within := clip(one, traced))]
        self._directory.write_profile(trace(clipped, self._controller(traced), traced, pauses))
        pieces = self._controller(window)
        taken = sum(
            one.taken is not None and window[0] <= one.taken <= window[1] and not one.lost
            for one in self._log.calls
        )
        whole = now - window[0]
        cpu *= (window[1] - window[0]) / whole if whole else 1.0
        rows = [row for actor, own in spans.items() for row in actor_rows(actor, own, window)]
        rows.append(controller_row([piece for _, piece in pieces], cpu, taken, window))
        self._say(table(rows, window))
        self._say(
            f"the trace is {self._directory.profile_file}; open it at https://ui.perfetto.dev or "
            "in chrome://tracing"
        )

    def _spans(self, until: float) -> dict[str, list[Span]]:
        """Every call of every actor, with both sides' times; for an actor that died, its
        successor's."""
        here, found = machine(), {}
        for worker in self._workers.all:
            there, works = self._workers.ask(
                worker, "hand over its log of work", lambda actor: actor.works.remote()
            )
            sent = [one for one in self._log.calls if one.actor == worker.name]
            found[worker.name] = merge(worker.name, sent, works, until, there == here)
        return found

    def _controller(self, window: Interval) -> list[tuple[str, Interval]]:
        """The controller's work: all time not spent waiting, named by the answers it handles."""
        answers = sorted(
            (one.taken, one.what)
            for one in self._log.calls
            if one.taken is not None and not one.lost
        )
        pieces = []
        for low, high in gaps(self._log.waits, window):
            first, last = (bisect(answers, moment, key=itemgetter(0)) for moment in (low, high))
            took = ", ".join(dict.fromkeys(what for _, what in answers[first:last]))
            pieces.append((took or "looks after the actors", (low, high)))
        return pieces
