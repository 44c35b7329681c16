"""Ends a process when one that it cannot work without has died.

The parts of a tensor-parallel engine wait for one another: without one of them the others wait for
ever, or fail with an error that hides the cause. As the death of the whole it is noticed at once,
and a supervisor can start another.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

EXIT_LOST_PART = 70  # as EX_SOFTWARE of sysexits.h


class SharedFate:
    """Watches the processes, from a thread of its own. None: does nothing."""

    def __init__(self, processes: Sequence[BaseProcess]) -> None:
        self._processes = processes
        if processes:
            threading.Thread(target=self._watch, daemon=True, name="shared fate").start()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Ends this process rather than let an exception out that the death of a part caused: it
        can be quicker than the thread."""
        try:
            yield
        except Exception:
            self._end_if_one_is_dead(within_s=0.0)
            raise

    def _watch(self) -> None:
        self._end_if_one_is_dead(within_s=None)

    def _end_if_one_is_dead(self, within_s: float | None) -> None:
        # Not by exit codes, which come a moment later, and once: vLLM asks for them, too.
        dead = wait([process.sentinel for process in self._processes], within_s)
        lost = next((one for one in self._processes if one.sentinel in dead), None)
        if lost is None:
            return
        print(
            f"{lost.name} (pid {lost.pid}) has died, and so does this process, which cannot work "
            "without it",
            file=sys.stderr,
            flush=True,
        )
        for process in self._processes:  # in a collective they would not see that this one ends
            process.kill()
        os._exit(EXIT_LOST_PART)
