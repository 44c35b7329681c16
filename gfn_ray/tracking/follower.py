"""The threads that deliver what a run has written to MLflow, with retries.

Owns when to try, and what the user is told when a try fails. Independent of what is delivered.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue

LOOK_EVERY_S = 1.0
"""Seconds between two looks for new data."""

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0
"""Delay after a failed try; doubled with each consecutive one."""

_log = logging.getLogger(__name__)


class Follower:
    """One thread, from `start` to `stop`."""

    def __init__(
        self, deliver: Callable[[], Iterator[None]], failure: Callable[[Exception], str]
    ) -> None:
        """deliver: yields after each delivery until nothing is left. failure: the message if it
        raises; shown once, until it succeeds again."""
        self._deliver = deliver
        self._failure = failure
        self._asked: SimpleQueue[Future[bool]] = SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self) -> Future[bool]:
        """Delivers now; the future says whether everything was delivered."""
        asked: Future[bool] = Future()
        self._asked.put(asked)
        return asked

    def stop(self, limit: float = 0.0) -> None:
        """Ends the thread after the current call, waiting up to `limit` seconds for it."""
        self._stopping.set()
        self.ask()
        if self._thread.is_alive():
            self._thread.join(limit)

    def _work(self) -> None:
        delay = 0.0
        while not self._stopping.is_set():
            asked: Future[bool] | None = None
            with suppress(Empty):
                asked = self._asked.get(timeout=delay or LOOK_EVERY_S)
            try:
                for _ in self._deliver():
                    if self._stopping.is_set():
                        return
                delay = 0.0
            except Exception as error:
                # Drivers, HTTP and SQLAlchemy each have their own exceptions. Here all mean the
                # same: the store or the disk may be back in a minute.
                if not delay:
                    _log.warning("%s", self._failure(error))
                delay = min(LONGEST_DELAY_S, 2 * delay) or FIRST_DELAY_S
            if asked is not None:
                asked.set_result(not delay)
