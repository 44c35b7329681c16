"""The interface to one MLflow run: calls that return at once and never fail."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from concurrent.futures import wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from gfn_ray.tracking.address import reason, redact_uri
from gfn_ray.tracking.deliveries import Deliveries
from gfn_ray.tracking.follower import Follower
from gfn_ray.tracking.state import TrackingState
from gfn_ray.tracking.store import erase, open_run

RunStatus = Literal["FINISHED", "KILLED", "FAILED"]

SYSTEM_METRICS_EVERY_S = 10.0
"""Seconds between two samples of CPU, memory, disk and GPU load: 90 points in 15 minutes."""

SETTLE_LIMIT_S = 600.0
"""Longest wait at the end of a run for a store that is only slow."""

WITHDRAW_LIMIT_S = 60.0
"""Longest wait for a call in flight when a run is withdrawn."""

_log = logging.getLogger(__name__)


class Tracker:
    """One MLflow run; it follows a run's directory from `follow` to `end`."""

    def __init__(
        self,
        uri: str,
        experiment: str,
        run_name: str,
        params: Mapping[str, Any],
        directory: Path,
        *,
        artifact_root: Path,
        delivery: str,
    ) -> None:
        """Opens the store and starts a run, or resumes the one that followed this directory.

        params: may be nested; flattened to dotted names. artifact_root: where a new experiment in a
        database keeps its artifacts; a server decides for itself. delivery: completes the message
        about data that MLflow has not received when the run ends.

        Raises UserError if the store cannot be opened or tracking.json is damaged.
        """
        state = TrackingState.read(directory)
        run_id = None if state is None else state.run_id
        self._run = open_run(uri, experiment, run_name, params, artifact_root, run_id)
        self.run_id, self.uri = self._run.run_id, uri
        self._directory = directory
        self._delivery = delivery
        self._state = state or TrackingState(run_id=self.run_id)
        self._deliveries = Deliveries(self._run, directory, self._state)
        # Separate, because a store may accept numbers but no files, which many keep elsewhere.
        self._followers = (
            Follower(self._deliveries.numbers, partial(self._failure, "numbers")),
            Follower(self._deliveries.files, partial(self._failure, "files")),
        )
        from gfn_ray.tracking.system import SteadyMonitor

        self._system = SteadyMonitor(
            self.run_id,
            sampling_interval=SYSTEM_METRICS_EVERY_S,
            resume_logging=state is not None,
            tracking_uri=uri,
        )
        self._following = False
        self._delivered: bool | None = None  # until the end

    def follow(self) -> None:
        """Starts delivering what is written. A second call does nothing.

        Call it after a resumed run's files are cut back. Raises OSError if tracking.json cannot be
        written.
        """
        if not self._following:
            self._following = True
            for one in self._followers:
                one.start()
            self._system.start()
            self._state.begin(self._directory)

    def artifact(self, path: Path) -> None:
        """Delivers a file or directory of the run's directory, under its name."""
        with self._state.changing(self._directory):
            self._state.artifacts.append(os.path.relpath(path, self._directory))

    def flush(self) -> bool:
        """Waits until MLflow has everything; False if it does not accept it now."""
        asked = [one.ask() for one in self._followers]
        answered, _ = wait(asked, SETTLE_LIMIT_S)
        return len(answered) == len(asked) and all(one.result() for one in asked)

    def end(self, status: RunStatus) -> bool:
        """Delivers the rest and closes the run with a status; True if MLflow has all of it.

        What the store does not accept is left to another process; the run does not depend on it. A
        second call does nothing and returns the same.
        """
        if self._delivered is not None:
            return self._delivered
        self._delivered = False
        self._deliveries.status = status  # first, because the rest may be interrupted
        with suppress(OSError):
            self.follow()
        with suppress(KeyboardInterrupt):
            self._system.finish()
            self._delivered = self.flush()
        for one in self._followers:
            one.stop()
        if self._delivered:
            with self._state.changing(self._directory):
                self._state.complete = True
        else:
            _log.warning(
                "MLflow at %s (--tracking.uri) has not received all of this run; the rest is in "
                "%s, and %s",
                redact_uri(self.uri),
                self._directory,
                self._delivery,
            )
        return self._delivered

    def withdraw(self) -> None:
        """Restores MLflow to its state before: without the run, or with the run's former status.

        Replaces `end`; a later call of that does nothing.
        """
        if self._run.former is not None:
            known: dict[str, RunStatus] = {"FINISHED": "FINISHED", "KILLED": "KILLED"}
            self.end(
                known.get(self._run.former, "FAILED")
            )  # a run still "RUNNING" there was killed
            return
        self._delivered = False
        self._system.finish()
        for one in self._followers:
            one.stop(WITHDRAW_LIMIT_S)
        try:
            erase(self._run)
        except Exception as error:
            # Drivers, HTTP and SQLAlchemy each have their own exceptions; all mean the same.
            _log.warning(
                "MLflow at %s (--tracking.uri) keeps the run %s, which did not start: %s",
                redact_uri(self.uri),
                self.run_id,
                reason(error, self.uri),
            )

    def _failure(self, what: str, error: Exception) -> str:
        return (
            f"MLflow at {redact_uri(self.uri)} (--tracking.uri) accepts no {what}: "
            f"{reason(error, self.uri)}; the run continues, and MLflow gets them from "
            f"{self._directory} once it is back"
        )
