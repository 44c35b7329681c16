"""What `--resume` takes: a run's own settings, with the few that may change.

`--resume DIRECTORY` resumes that run. `--resume auto` resumes the run of `--run-dir`, or starts it
where there is none: what a scheduler needs that runs the same command again.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, TypeVar

from gfn_ray.config import JobConfig
from gfn_ray.config.sections import ALL_LINEAR
from gfn_ray.errors import UserError, shown
from gfn_ray.paths import is_file, output_root
from gfn_ray.settings import Tree, get
from gfn_ray.settings_values import Settings, check, flatten, read_toml, resolved

AUTO = "auto"
_STORED_SETTINGS = "config.toml"
_COMMIT = re.compile(r"[0-9a-f]{40}")
JobT = TypeVar("JobT", bound=JobConfig)


def resume(job: type[JobT], settings: Settings, flags: dict[str, str], file: Path | None) -> JobT:
    """The settings of the run that --resume names. flags: as given. file: of --config."""
    if file is not None:
        raise UserError(f"--resume takes the run's own settings; leave --config {file} out")
    for name in flags:
        if not _may_change(job, name):
            raise UserError(
                f"--resume takes the run's own settings; leave --{name.replace('_', '-')} out, or "
                "start a new run"
            )
    check(settings["resume"], "--resume", flags["resume"])
    directory = output_root() / Path(flags["resume"]).expanduser()
    if not is_file(directory / _STORED_SETTINGS, "--resume"):
        raise UserError(
            f"--resume got {directory}, which has no {_STORED_SETTINGS}; it takes the directory of "
            "a run, as printed in the run's first and last lines"
        )
    return _of_run(job, settings, directory, flags)


def resume_or_start(job: type[JobT], settings: Settings, given: Tree, fresh: JobT) -> JobT:
    """The settings of --resume auto: those of the run in --run-dir if it has begun, else `fresh`.

    given: flags and settings of --config by name, as in `fresh`. Those that may change do; another
    that differs from the run's is refused.
    """
    if fresh.run_dir is None:
        raise UserError(
            "--resume auto resumes a run, or starts it, by its directory; name that with --run-dir"
        )
    directory = output_root() / fresh.run_dir.expanduser()
    if not is_file(directory / _STORED_SETTINGS, "--run-dir"):
        return fresh
    named = fresh.model_dump(mode="json")
    changed = {name: get(named, name) for name in given if _may_change(job, name)}
    found = _of_run(job, settings, directory, {"resume": str(directory)}, changed)
    begun = found.model_dump(mode="json")
    for name in given:
        if name == "run_dir" or _may_change(job, name):
            continue
        if not _same(name, get(named, name), get(begun, name)):
            raise UserError(
                f"{settings[name].flag} got {shown(get(named, name))}, but the run of {directory} "
                f"began with {shown(get(begun, name))}; --resume auto keeps a run's settings: name "
                "another --run-dir for a new run"
            )
    return found


def _of_run(
    job: type[JobT],
    settings: Settings,
    directory: Path,
    flags: dict[str, str],
    changed: Tree | None = None,
) -> JobT:
    # Resolves a -latest link, which another run may move in the meantime.
    file = Path(os.path.realpath(directory)) / _STORED_SETTINGS
    try:
        stored = flatten(read_toml(file, "--resume"), settings, file) | (changed or {})
    except UserError as error:
        raise UserError(f"--resume got a run of another job or version: {error}") from None
    return resolved(job, settings, stored, flags | {"resume": str(file.parent)}, file)


def _same(name: str, given: Any, stored: Any) -> bool:
    """Whether a run with this setting stores that one: a start makes some of them exact."""
    if name == "policy.lora_targets" and ALL_LINEAR in given:
        return True
    if name == "model.name":
        return stored in (given, os.path.realpath(Path(given).expanduser()))
    if name == "model.revision" and stored is not None:
        return bool(given == stored or not _COMMIT.fullmatch(given))
    return bool(given == stored)


def _may_change(job: type[JobConfig], name: str) -> bool:
    return bool({name, name.split(".")[0]} & set(job.may_change))
