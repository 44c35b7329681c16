"""The command `gfn-ray`: every job, and a trained adapter at work. jobs/*.py call the same jobs.

Owns which commands there are, and their completion. Imports what a command needs once its settings
are known to be sound: before that, nothing heavy.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from pydantic import BaseModel

from gfn_ray import __version__
from gfn_ray.cli import main as with_exit_code
from gfn_ray.cli import parse
from gfn_ray.errors import UserError
from gfn_ray.serving import command as serving
from gfn_ray.settings import settings_of
from gfn_ray.tasks.catalog import CATALOG

SERVING = {
    "sample": "Draw from a trained policy, with log q of each z.",
    "predict": "Average a trained policy's answers.",
}

# Sourced by a shell: eval "$(gfn-ray completion bash)".
_COMPLETION = """\
_gfn_ray() {
  mapfile -t COMPREPLY < <(gfn-ray complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -o default -F _gfn_ray gfn-ray
"""
_SHELLS = {
    "bash": _COMPLETION,
    "zsh": "autoload -U +X bashcompinit && bashcompinit\n"
    + _COMPLETION.replace(
        "mapfile -t COMPREPLY < <(gfn-ray complete",
        "COMPREPLY=($(gfn-ray complete",
    ).replace("2>/dev/null)\n", "2>/dev/null))\n"),
}


@dataclass(frozen=True)
class Job:
    """settings: imports their class. run: takes them, and returns the exit code."""

    about: str
    settings: Callable[[], type[BaseModel]]
    run: Callable[[Any], int]


def _train(task: str, config: Any) -> int:
    from gfn_ray.runtime.run import run

    return run(config, CATALOG[task].task()(config))


JOBS = {
    **{
        name.replace("_", "-"): Job(entry.about, entry.settings, partial(_train, name))
        for name, entry in CATALOG.items()
    },
    "tune-base": Job(
        "Tune a base model on stories, for infill.",
        lambda: import_module("gfn_ray.config").TuneBaseJob,
        lambda config: import_module("gfn_ray.runs.tune_base").tune_base(config),
    ),
    "compare": Job(
        "Compare finished runs on the same held-out queries.",
        lambda: import_module("gfn_ray.config").CompareJob,
        lambda config: import_module("gfn_ray.runs.compare_runs").compare_runs(config),
    ),
    "comparison": Job(
        "Run GFlowNet training and other methods on the same tasks, and tabulate them.",
        lambda: import_module("gfn_ray.comparison.config").ComparisonJob,
        lambda config: import_module("gfn_ray.comparison.command").comparison(config),
    ),
}


# A job has a file in jobs/, for `ray job submit`; these have not.
COMMANDS = {
    **JOBS,
    "faithfulness": Job(
        "Measure on a finished run whether its answers depend on z.",
        lambda: import_module("gfn_ray.config.faithfulness").FaithfulnessJob,
        lambda config: import_module("gfn_ray.runs.faithfulness").faithfulness(config),
    ),
    "plan": Job(
        "Plan a run: memory, the best division of GPUs, and its pace.",
        lambda: import_module("gfn_ray.runtime.planning.config").PlanJob,
        lambda config: import_module("gfn_ray.runtime.planning.plan").plan(config),
    ),
}


def run_job(name: str, prog: str) -> int:
    """A job's file: its exit code, by the words that the process was given."""
    return with_exit_code(lambda: _job(name, sys.argv[1:], prog))


def main() -> int:
    """`gfn-ray`, and `python -m gfn_ray`."""
    return with_exit_code(lambda: command(sys.argv[1:]))


def command(words: Sequence[str]) -> int:
    """Runs one command and returns its exit code; UserError where a word is at fault."""
    if not words or words[0] in ("--help", "-h"):
        print(_help())
        return 0
    name, *rest = words
    if name == "--version":
        print(f"gfn_ray {__version__}")
        return 0
    if name in COMMANDS:
        return _job(name, rest, f"gfn-ray {name}")
    if name in SERVING:
        return serving.command(words)
    if name == "completion":
        return _print_completion(rest)
    if name == "complete":
        print("\n".join(completions(rest)))
        return 0
    near = difflib.get_close_matches(name, [*COMMANDS, *SERVING], 1)
    hint = f"did you mean {near[0]}?" if near else "gfn-ray --help lists them"
    raise UserError(f"there is no command {name!r}; {hint}")


def completions(words: Sequence[str]) -> list[str]:
    """What the last word may become: a command, a flag of it, or a flag's choice. Nothing where a
    path or a number is due."""
    *before, last = words or [""]
    if not before:
        return [name for name in [*COMMANDS, *SERVING, "completion"] if name.startswith(last)]
    if before[0] not in COMMANDS:
        return []
    settings = settings_of(COMMANDS[before[0]].settings()).values()
    schemas = {setting.flag: setting.main for setting in settings}
    if (schema := schemas.get(before[-1])) is not None and not last.startswith("--"):
        choices = map(str, schema.get("items", schema).get("enum", ()))
        return [choice for choice in choices if choice.startswith(last)]
    flags = ["--config", "--help", *schemas]
    return [flag for flag in flags if flag.startswith(last)] if last.startswith("-") else []


def _job(name: str, words: Sequence[str], prog: str) -> int:
    return COMMANDS[name].run(parse(COMMANDS[name].settings(), words, prog))


def _print_completion(words: Sequence[str]) -> int:
    if len(words) != 1 or words[0] not in _SHELLS:
        raise UserError(f"completion takes {' or '.join(_SHELLS)}, got {' '.join(words) or 'none'}")
    print(_SHELLS[words[0]], end="")
    return 0


def _help() -> str:
    about = {name: job.about for name, job in COMMANDS.items()} | SERVING
    width = max(map(len, about))
    listed = "\n".join(f"  {name:<{width}}  {text}" for name, text in about.items())
    return (
        "usage: gfn-ray COMMAND [--SETTING VALUE] ...\n\n"
        "GFlowNet fine-tuning of language models: policies that sample from a posterior.\n\n"
        f"{listed}\n\n"
        "gfn-ray COMMAND --help lists what it takes; gfn-ray completion bash, or zsh, prints what\n"
        "has a shell complete it."
    )
