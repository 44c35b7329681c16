"""Reads settings from defaults, a TOML file and flags, in that order; reports errors plainly.

Defines the command line of every job: how flags are spelled, the one-line error for a mistake,
the exit code, and what becomes of lines that nobody reads. Imports nothing heavy, so that `--help`
is instant.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from gfn_ray import __version__
from gfn_ray.config import JobConfig
from gfn_ray.errors import (
    EXIT_INTERRUPTED,
    EXIT_RUN_FAILED,
    EXIT_USER_ERROR,
    RunFailed,
    UserError,
    cut,
    shown,
)
from gfn_ray.help_page import help_page
from gfn_ray.resuming import AUTO, resume, resume_or_start
from gfn_ray.settings import NONE, REQUIRED, Setting, Tree, settings_of
from gfn_ray.settings_values import (
    ConfigT,
    Settings,
    check,
    flatten,
    read_toml,
    resolved,
    unknown,
)

_CONFIG = Setting("config", {"type": "string", "format": "path"}, "a path", REQUIRED)


def parse(
    job: type[ConfigT], argv: Sequence[str] | None = None, prog: str | None = None
) -> ConfigT:
    """Returns the resolved config. A mistake ends the process with code 2 and a line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--help" in arguments or "-h" in arguments:
        print_line(help_page(job, prog or Path(sys.argv[0]).name))
        raise SystemExit(0)
    if "--version" in arguments:
        print(f"gfn_ray {__version__}")
        raise SystemExit(0)
    try:
        return _resolve(job, arguments)
    except UserError as error:
        raise SystemExit(_fail(error, EXIT_USER_ERROR)) from None


def main(run: Callable[[], int]) -> int:
    """Runs a job's body and turns its outcome into an exit code; a bug keeps its traceback."""
    try:
        return run()
    except UserError as error:
        return _fail(error, EXIT_USER_ERROR)
    except RunFailed as error:
        return _fail(error, EXIT_RUN_FAILED)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def print_line(text: str) -> None:
    """Prints; once nobody reads any more, as in `... | head`, in silence."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # Python would flush once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(error: Exception, code: int) -> int:
    # Quoted file contents and names must not send control codes to the terminal.
    line = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in " ".join(str(error).splitlines())
    )
    print("error: " + line, file=sys.stderr)
    return code


def _resolve(job: type[ConfigT], arguments: list[str]) -> ConfigT:
    settings = settings_of(job)
    flags, file = _read_flags(arguments, settings)
    asked = flags.get("resume", NONE)
    if issubclass(job, JobConfig) and asked not in (NONE, AUTO):
        resumed: ConfigT = resume(job, settings, flags, file)
        return _checked(resumed, flags)
    stored: Tree = {}
    if file is not None:
        stored = flatten(read_toml(file, "--config"), settings, file)
        if stored.get("resume") is not None:
            raise UserError(
                f"resume in {file} would resume a run with other settings; leave it out, and "
                "give --resume as a flag"
            )
    if asked == AUTO:
        del flags["resume"]
    config = resolved(job, settings, stored, flags, file)
    if isinstance(config, JobConfig) and asked == AUTO:
        given = {**stored, **flags}
        return _checked(resume_or_start(type(config), settings, given, config), given)
    return config


def _checked(config: ConfigT, given: Collection[str]) -> ConfigT:
    if isinstance(config, JobConfig) and config.resume is not None:
        config.check_resumed(given)
    return config


def _read_flags(arguments: list[str], settings: Settings) -> tuple[dict[str, str], Path | None]:
    """Returns flag texts by setting name, and the file given to --config."""
    for word in arguments:
        if word != word.encode(errors="replace").decode():  # config.toml could not hold it
            raise UserError(
                f"argument {shown(word)} is not UTF-8; encode it so, or rename the file"
            )
    known = {**settings, "config": _CONFIG}
    flags: dict[str, str] = {}
    left = arguments[::-1]
    while left:
        word = left.pop()
        if not word.startswith("--"):
            raise UserError(f"unexpected argument {shown(word)}; settings are written --name value")
        key, equals, text = word[2:].partition("=")
        name = key.replace("-", "_")
        negated = known.get(name.removeprefix("no_"))
        if name not in known and negated is not None and negated.is_bool:
            if equals:
                raise UserError(f"--{key} takes no value; write {negated.flag}={cut(text)} instead")
            flags[negated.name] = "false"
            continue
        if name not in known:
            raise UserError(unknown(cut(f"--{key}"), cut(name), known, lambda one: one.flag))
        if not equals and known[name].is_bool and left[-1:] not in (["true"], ["false"], [NONE]):
            text = "true"
        elif not equals:
            if not left or left[-1].startswith("--"):
                raise UserError(f"--{key} got no value; it takes {known[name].takes}")
            text = left.pop()
        if name == "config" and name in flags:
            raise UserError(f"--config got two files, {flags[name]} and {text}; it takes one")
        flags[name] = text
    if "config" not in flags:
        return flags, None
    file = flags.pop("config")
    check(_CONFIG, "--config", file)
    return flags, Path(file)
