"""gfn_ray.toml: the description of an adapter, next to its PEFT files.

It contains the format's version, the task's name and the resolved settings of the run, including
the base model. PEFT and vLLM ignore the file.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gfn_ray.config import JobConfig
from gfn_ray.errors import UserError
from gfn_ray.paths import is_dir, is_file
from gfn_ray.settings_values import read_stored
from gfn_ray.storage.atomic import COMPLETE, atomic_file, damage
from gfn_ray.tasks.catalog import BUILT_IN
from gfn_ray.tasks.task import Task

FILE = "gfn_ray.toml"
FORMAT = 1


@dataclass(frozen=True)
class Description:
    """settings: the tree that `dump_toml` wrote, not yet checked."""

    file: Path
    task: str
    settings: dict[str, Any]

    def make_task(self, given: type[Any] | None) -> tuple[Task, JobConfig]:
        """Makes the task that the adapter was trained on, with its settings then.

        given: the task's class, for one that is not built in. Raises UserError if there is
        none of that name.
        """
        task = given or self._built_in()
        job, name = getattr(task, "job", None), getattr(task, "name", None)
        if not (isinstance(job, type) and issubclass(job, JobConfig) and isinstance(name, str)):
            raise UserError(
                f"task got {task!r}; it takes a task's class, with its settings (a JobConfig "
                "class) as `job` and its name as `name`"
            )
        if name != self.task:
            raise UserError(
                f"task got {task.__name__}, whose name is {name!r}, and {self.file} was written "
                f"by a run of task {self.task!r}; give the class of that task"
            )
        config = read_stored(job, self.settings, self.file)
        made: Task = task(config)
        return made, config

    def _built_in(self) -> type[Any]:
        if self.task not in BUILT_IN:
            raise UserError(
                f"{self.file} was written by a run of task {self.task!r}, which is not built in; "
                "give its class, as in gfn_ray.sample(adapter, query, task=MyTask) "
                f"(built in: {', '.join(BUILT_IN)})"
            )
        return BUILT_IN[self.task]()


def write_description(directory: Path, task: str, settings: str) -> None:
    """Writes the file into an adapter directory.

    settings: the run's config.toml, made by `dump_toml`, which contains no credentials.
    """
    import tomli_w

    tree = {"format": FORMAT, "task": task, "settings": tomllib.loads(settings)}
    with atomic_file(directory / FILE) as temp:
        temp.write_text(tomli_w.dumps(tree), encoding="utf-8")


def read_description(directory: Path) -> Description:
    """Reads an adapter's description; raises UserError if the adapter is missing or torn."""
    file = directory / FILE
    if not is_dir(directory, "the adapter"):
        raise UserError(
            f"there is no adapter directory {directory}; a finished run leaves one at "
            "runs/<task>-latest/adapter"
        )
    if not is_file(file, "the adapter"):
        if is_file(directory / "adapter" / FILE, "the adapter"):
            raise UserError(f"{directory} is a run's directory; its adapter is {directory}/adapter")
        raise UserError(
            f"{directory} has no file {FILE}, so its task and settings are unknown; it takes a "
            "directory that a run of gfn_ray wrote, such as runs/<task>-latest/adapter"
        )
    if not (directory / COMPLETE).is_file():
        raise UserError(
            f"the adapter {directory} is torn (it has no file {COMPLETE}); take a complete one, "
            "such as the newest of the run's checkpoints"
        )
    if found := damage(directory):
        raise UserError(f"{found}; restore it from a copy, or take another adapter")
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {error}; take a complete adapter") from None
    if tree.get("format") != FORMAT:
        raise UserError(
            f"{file} has format {tree.get('format')!r}, and this gfn_ray reads {FORMAT}; serve it "
            "with the gfn_ray that wrote it"
        )
    task, settings = tree.get("task"), tree.get("settings")
    if not isinstance(task, str) or not isinstance(settings, dict):
        raise UserError(f"{file} lacks its task or its [settings]; take a complete adapter")
    return Description(file, task, settings)
