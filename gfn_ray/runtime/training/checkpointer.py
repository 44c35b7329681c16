"""Writes adapters and checkpoints during a run.

Owns what goes into a checkpoint and where; runs/checkpoints.py owns the file layout and reading.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gfn_ray.config import JobConfig
from gfn_ray.errors import RunFailed
from gfn_ray.policy.adapter import Adapter, write_adapter
from gfn_ray.runs.checkpoints import write_training
from gfn_ray.runs.display import Display
from gfn_ray.runs.published import prune, publish_directory
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.runtime.actors.worker_group import WorkerGroup
from gfn_ray.runtime.training.controller import Controller
from gfn_ray.runtime.training.schedules.schedule import Schedule
from gfn_ray.serving.description import write_description
from gfn_ray.serving.tuned_labels import TunedLabels, write_labels


class Checkpointer:
    """Writes one run's checkpoints."""

    def __init__(
        self,
        config: JobConfig,
        task_name: str,
        directory: RunDir,
        workers: WorkerGroup,
        schedule: Schedule,
        display: Display,
    ) -> None:
        self._config = config
        self._task_name = task_name
        self._directory = directory
        self._workers = workers
        self._schedule = schedule
        self._display = display
        self._newest = -1

    def write(
        self, controller: Controller, training_run: dict[str, Any], *, needed: bool = False
    ) -> None:
        """Checkpoints the run after an update whose weights are published.

        If the disk is full, the checkpoint is skipped with a message: training is worth more than
        resuming from exactly here, and the previous checkpoint is still there. needed: raises
        RunFailed instead, as the previous one would be wrong to use.
        """
        training = {
            "learner": self._workers.save_learner(),
            "controller": controller.state(),
            "schedule": self._schedule.state(),
            "run": training_run,
            "files": self._directory.file_sizes(),
        }
        replay = None
        if self._config.max_staleness == 0:
            replay = self._workers.ask(
                self._workers.replay, "copy itself", lambda actor: actor.snapshot.remote()
            )
        adapter = self._workers.adapter()
        try:
            with publish_directory(self._directory.checkpoint_dir(controller.step)) as directory:
                self._fill(directory, adapter)
                write_training(directory, training, replay)
            prune(self._directory.checkpoints_dir, self._config.checkpoint.keep)
        except OSError as error:
            self._left_out(controller.step, f"{error.strerror or error}: {error.filename}", needed)
            return
        self._newest = controller.step

    def write_last(self, controller: Controller, training_run: dict[str, Any]) -> None:
        """Writes the final checkpoint, unless the newest one already holds it."""
        if self._newest != controller.step or self._schedule.learns_apart:
            self.write(controller, training_run)

    def publish(self, adapter: Adapter, target: Path, tuned: TunedLabels | None) -> None:
        """Writes an adapter directory that PEFT and vLLM load and `gfn_ray.open` serves."""
        with publish_directory(target) as directory:
            self._fill(directory, adapter)
            if tuned is not None:
                write_labels(directory, tuned)

    def _left_out(self, step: int, cause: str, needed: bool) -> None:
        failed = f"the checkpoint of update {step} could not be written ({cause})"
        if needed:
            raise RunFailed(
                f"{failed}, and replay from here on does not match an older one; free disk space "
                "or repair the disk"
            )
        self._display.message(f"{failed}; training continues without it")

    def _fill(self, directory: Path, adapter: Adapter) -> None:
        write_adapter(adapter, directory)
        settings = self._directory.config_file.read_text(encoding="utf-8")
        write_description(directory, self._task_name, settings)
