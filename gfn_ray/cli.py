"""Reads settings from defaults, a TOML file and flags, in that order; reports errors plainly.

Defines the command line of every job: how flags are spelled, the one-line error for a mistake,
and the exit code. Imports nothing heavy, so that `--help` is instant.
"""

from __future__ import annotations

import difflib
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, to_json

from gfn_ray import __version__
from gfn_ray.config import JobConfig
from gfn_ray.data.files import read_document
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
from gfn_ray.paths import is_file, output_root
from gfn_ray.settings import (
    NONE,
    REQUIRED,
    Setting,
    Tree,
    defaults_of,
    get,
    path_from,
    put,
    settings_of,
)

ConfigT = TypeVar("ConfigT", bound=BaseModel)
Settings = dict[str, Setting]

_MOST_SUGGESTED = 3  # settings of the same name
_LARGEST_CONFIG = 2**18  # bytes; a job's settings take about 4,000
_STORED_SETTINGS = "config.toml"
_CONFIG = Setting("config", {"type": "string", "format": "path"}, "a path", REQUIRED)


def parse(
    job: type[ConfigT], argv: Sequence[str] | None = None, prog: str | None = None
) -> ConfigT:
    """Returns the resolved config. A mistake ends the process with code 2 and a line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--help" in arguments or "-h" in arguments:
        _print(help_page(job, prog or Path(sys.argv[0]).name))
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


def dump_toml(config: BaseModel) -> str:
    """Returns the config as TOML that `--config` reads back to an equal config.

    A None is left out unless the default is something else; then it is written as "none".
    """
    import tomli_w

    tree: Tree = {}
    values = config.model_dump(mode="json")
    for setting in settings_of(type(config)).values():
        if setting.is_in(values):
            value = get(values, setting.name)
            if value is not None or setting.default is not None:
                put(tree, setting.name, NONE if value is None else value)
    return tomli_w.dumps(tree)


def read_stored(job: type[ConfigT], tree: Tree, file: Path) -> ConfigT:
    """Returns the config from settings that `dump_toml` wrote; `file` names it in errors.

    Raises UserError for an unknown setting or an invalid value.
    """
    settings = settings_of(job)
    return _resolved(job, settings, _flatten(tree, settings, file), {}, file)


def _print(page: str) -> None:
    try:
        print(page, flush=True)
    except BrokenPipeError:  # as in `--help | head`; Python would flush once more at exit
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
    stored: Tree = {}
    if flags.get("resume", NONE) != NONE:
        assert issubclass(job, JobConfig)
        file = _resumed(flags, file, settings["resume"], job.may_change)
        flags["resume"] = str(file.parent)
        tree = _read_toml(file, "--resume")
        try:
            stored = _flatten(tree, settings, file)
        except UserError as error:
            raise UserError(f"--resume got a run of another job or version: {error}") from None
    elif file is not None:
        stored = _flatten(_read_toml(file, "--config"), settings, file)
        if stored.get("resume") is not None:
            raise UserError(
                f"resume in {file} would resume a run with other settings; leave it out, and "
                "give --resume as a flag without --config"
            )
    config = _resolved(job, settings, stored, flags, file)
    if isinstance(config, JobConfig) and config.resume is not None:
        config.check_resumed(flags)
    return config


def _resolved(
    job: type[ConfigT], settings: Settings, stored: Tree, flags: dict[str, str], file: Path | None
) -> ConfigT:
    """Returns the config from the settings of a file and of flags; flags win."""
    origins = {name: f"{name} in {file}" for name in stored}
    origins |= {name: settings[name].flag for name in flags}
    values = stored | {name: settings[name].from_text(text) for name, text in flags.items()}
    switches = {setting.switch for setting in settings.values()}
    tree = defaults_of(job)
    for name in sorted(values, key=lambda name: name not in switches):
        setting, value = settings[name], values[name]
        _check(setting, origins[name], value)
        if not setting.is_in(tree):
            switch = settings[setting.switch].flag if name in flags else setting.switch
            raise UserError(
                f"{origins[name]} belongs to {switch} {'|'.join(setting.kinds)}; this run has "
                f"{get(tree, setting.switch)}"
            )
        if name in switches and value != get(tree, name):  # each kind has its own defaults
            put(tree, name.rpartition(".")[0], {})
        put(tree, name, value)
    try:
        return job.model_validate_json(to_json(tree), strict=True)
    except ValidationError as refused:
        # One line, so one error: the first.
        raise _explained(refused.errors()[0], settings, origins, tree) from None


def _check(setting: Setting, origin: str, value: Any) -> None:
    """Refuses unknown choices, nested values, integers beyond 64 bits and impossible paths."""
    if value not in setting.schema.get("enum", [value]):
        raise _refusal(setting, origin, value)
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, list | dict):  # may be nested deeper than JSON allows
            raise _refusal(setting, origin, value)
        if isinstance(part, int) and abs(part) >= 2**63:  # arrays hold 64-bit numbers
            raise _refusal(setting, origin, value, ", which is too large")
        if setting.is_path and isinstance(part, str):
            try:
                path_from(part)
            except ValueError:
                raise _refusal(setting, origin, value) from None


def _explained(
    error: ErrorDetails, settings: Settings, origins: dict[str, str], tree: Tree
) -> UserError:
    """Rewords pydantic's error; keeps the messages of our own validators."""
    if error["type"] in ("value_error", "assertion_error"):
        return UserError(str(error["ctx"]["error"]))
    setting = next(one for name, one in settings.items() if _is_at(name, error["loc"]))
    if setting.name not in origins:
        return UserError(f"{setting.flag} is missing; it takes {setting.takes}")
    return _refusal(setting, origins[setting.name], get(tree, setting.name))


def _is_at(name: str, place: tuple[int | str, ...]) -> bool:
    """Whether pydantic's location of an error is that setting. The location also contains the
    kind of its section: ("objective", "subtb", "subtb_lambda") for objective.subtb_lambda."""
    section, *rest = name.split(".")
    parts = iter(place[1:])
    return section == place[0] and all(part in parts for part in rest)


def _refusal(setting: Setting, origin: str, value: Any, because: str = "") -> UserError:
    return UserError(f"{origin} got {shown(value)}{because}; it takes {setting.takes}")


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
            raise UserError(_unknown(cut(f"--{key}"), cut(name), known, lambda one: one.flag))
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
    _check(_CONFIG, "--config", file)
    return flags, Path(file)


def _resumed(
    flags: dict[str, str], file: Path | None, setting: Setting, may_change: tuple[str, ...]
) -> Path:
    """Returns the settings file of the run to resume. may_change: settings and sections whose flags
    may be given. Resolves a -latest link, which another run may move in the meantime."""
    if file is not None:
        raise UserError(f"--resume takes the run's own settings; leave --config {file} out")
    for name in flags:
        if not {name, name.split(".")[0]} & set(may_change):
            raise UserError(
                f"--resume takes the run's own settings; leave --{name.replace('_', '-')} out, or "
                "start a new run"
            )
    _check(setting, "--resume", flags["resume"])
    directory = output_root() / Path(flags["resume"]).expanduser()
    if not is_file(directory / _STORED_SETTINGS, "--resume"):
        raise UserError(
            f"--resume got {directory}, which has no {_STORED_SETTINGS}; it takes the directory of "
            "a run, as printed in the run's first and last lines"
        )
    return Path(os.path.realpath(directory)) / _STORED_SETTINGS


def _read_toml(file: Path, flag: str) -> Tree:
    text = read_document(file, flag, _LARGEST_CONFIG)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # the latter from deeply nested brackets
        raise UserError(
            f"{flag} got {file}, which is not TOML: {error}; fix it, or give another"
        ) from None


def _flatten(tree: Tree, settings: Settings, file: Path, prefix: str = "") -> Tree:
    """Returns the values of a TOML tree by dotted setting name; refuses unknown keys."""
    flat: Tree = {}
    for key, value in tree.items():
        name = prefix + key
        inside = any(known.startswith(name + ".") for known in settings)
        if name in settings:
            flat[name] = None if settings[name].optional and value == NONE else value
        elif inside and isinstance(value, dict):
            flat.update(_flatten(value, settings, file, name + "."))
        elif inside:
            raise UserError(f"{name} in {file} got {shown(value)}; it is a section, [{name}]")
        else:
            raise UserError(
                _unknown(f"{cut(name)} in {file}", cut(name), settings, lambda known: known.name)
            )
    return flat


def _unknown(written: str, name: str, settings: Settings, spell: Callable[[Setting], str]) -> str:
    for known in settings.values():
        if known.name.startswith(name + "."):
            return f"{written} is a section; name one of its settings, such as {spell(known)}"
    last = name.split(".")[-1]
    namesakes = [known for known in settings if known.split(".")[-1] == last]
    near = difflib.get_close_matches(name, namesakes, _MOST_SUGGESTED, cutoff=0)
    near = (
        near if near and name == last else near[:1] or difflib.get_close_matches(name, settings, 1)
    )
    suggested = " or ".join(spell(settings[one]) for one in near)
    hint = f"did you mean {suggested}?" if near else "--help lists every setting"
    return f"unknown setting {written}; {hint}"
