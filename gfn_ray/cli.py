"""Settings from defaults, a TOML file and flags, in that order; errors in plain words.

Owns the command line of every job: how flags are spelled, the one line that a mistake
gets, and the exit code. Imports nothing heavy, so that `--help` is instant.
"""

from __future__ import annotations

import difflib
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gfn_ray import __version__
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
from gfn_ray.places import is_file, output_root
from gfn_ray.settings import (
    NONE,
    Setting,
    Tree,
    get,
    path_from,
    put,
    settings_of,
    to_toml,
)

ConfigT = TypeVar("ConfigT", bound=BaseModel)
Settings = dict[str, Setting]

_LARGEST_CONFIG = 2**18  # bytes; all the settings of a job are some 4,000
_STORED_SETTINGS = "config.toml"
_RESUMED_WITH = ("resume", "steps", "tracking.uri", "checkpoint", "profile", "runtime")


def parse(
    job: type[ConfigT], argv: Sequence[str] | None = None, prog: str | None = None
) -> ConfigT:
    """The resolved config. A mistake ends the process with code 2 and one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--help" in arguments or "-h" in arguments:
        print(help_page(job, prog or Path(sys.argv[0]).name))
        raise SystemExit(0)
    if "--version" in arguments:
        print(f"gfn_ray {__version__}")
        raise SystemExit(0)
    try:
        return _resolve(job, arguments)
    except UserError as error:
        raise SystemExit(_fail(error, EXIT_USER_ERROR)) from None


def main(run: Callable[[], int]) -> int:
    """Run a job's body and turn its outcome into an exit code; a bug keeps its traceback."""
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
    """The config as TOML that `--config` reads back to an equal config.

    A None is left out, except where the default is something else: there it is "none".
    """
    import tomli_w

    tree: Tree = {}
    values = config.model_dump()
    for setting in settings_of(type(config)).values():
        value = get(values, setting.name)
        if value is not None or setting.default is not None:
            put(tree, setting.name, to_toml(value))
    return tomli_w.dumps(tree)


def read_stored(job: type[ConfigT], tree: Tree, file: Path) -> ConfigT:
    """The config of a tree of settings that `dump_toml` wrote; `file` names it in errors.

    Raises UserError on an unknown setting or a value that it does not take.
    """
    return _resolved(settings_of(job), job, {}, tree, file)


def _fail(error: Exception, code: int) -> int:
    # What a file or a name holds must not steer the terminal that it is quoted on.
    line = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in " ".join(str(error).splitlines())
    )
    print("error: " + line, file=sys.stderr)
    return code


def _resolve(job: type[ConfigT], arguments: list[str]) -> ConfigT:
    settings = settings_of(job)
    flags, file = _read_flags(arguments, settings)
    if "resume" in flags and flags["resume"] != NONE:
        file = _resumed(flags, file, settings["resume"])
        flags["resume"] = str(file.parent)
        stored = _read_toml(file, "--resume")
        try:
            _flatten(stored, settings, file)
        except UserError as error:
            raise UserError(f"--resume got a run of another job or version: {error}") from None
        return _resolved(settings, job, flags, stored, file)
    stored = {} if file is None else _read_toml(file, "--config")
    if "resume" in settings and stored.get("resume", NONE) != NONE:
        raise UserError(
            f"resume in {file} would go on with a run under other settings; leave it out, and give "
            "--resume as a flag without --config"
        )
    return _resolved(settings, job, flags, stored, file)


def _resolved(
    settings: Settings,
    job: type[ConfigT],
    flags: dict[str, str],
    stored: Tree,
    file: Path | None,
) -> ConfigT:
    tree: Tree = {}
    for setting in settings.values():
        if not setting.required:
            put(tree, setting.name, setting.default)
    origins: dict[str, str] = {}
    if file is not None:
        for name, value in _flatten(stored, settings, file).items():
            origins[name] = f"{name} in {file}"
            put(tree, name, _accept(settings[name].from_toml, settings[name], value, origins[name]))
    for name, text in flags.items():
        origins[name] = settings[name].flag
        put(tree, name, _accept(settings[name].from_text, settings[name], text, origins[name]))
    try:
        return job.model_validate(tree)
    except ValidationError as refused:
        # One line, so one error: the first.
        _explain(refused.errors()[0], settings, origins)


def _accept(read: Callable[[Any], Any], setting: Setting, value: Any, origin: str) -> Any:
    try:
        return read(value)
    except OverflowError:
        raise UserError(
            f"{origin} got {shown(value)}, which is too large; it takes {setting.takes}"
        ) from None
    except ValueError:
        raise UserError(f"{origin} got {shown(value)}; it takes {setting.takes}") from None


def _explain(error: ErrorDetails, settings: Settings, origins: dict[str, str]) -> NoReturn:
    """Pydantic's complaint in our words; the messages of our own validators stand as they are."""
    if error["type"] in ("value_error", "assertion_error"):
        raise UserError(str(error["ctx"]["error"])) from None
    where = ".".join(map(str, error["loc"])) + "."
    setting = next(
        (known for name, known in settings.items() if where.startswith(name + ".")), None
    )
    if setting is None:
        raise UserError(f"{where[:-1]}: {error['msg']}") from None
    if error["type"] == "missing":
        raise UserError(f"{setting.flag} is missing; it takes {setting.takes}") from None
    origin = origins.get(setting.name, setting.name)
    raise UserError(f"{origin} got {shown(error['input'])}; it takes {setting.takes}") from None


def _read_flags(arguments: list[str], settings: Settings) -> tuple[dict[str, str], Path | None]:
    """Flag texts by setting name, and the file that --config names."""
    flags: dict[str, str] = {}
    file: Path | None = None
    for word in arguments:
        try:
            word.encode()
        except UnicodeEncodeError:  # the run's config.toml could not hold it
            raise UserError(
                f"argument {shown(word)} is not UTF-8; write it so, or rename the file"
            ) from None
    left = arguments[::-1]
    while left:
        word = left.pop()
        if not word.startswith("--"):
            raise UserError(f"unexpected argument {shown(word)}; settings are written --name value")
        key, equals, text = word[2:].partition("=")
        name = key.replace("-", "_")
        setting = settings.get(name)
        if setting is None and name != "config":
            if not (switch := _negated(name, settings)):
                raise UserError(
                    _unknown(cut(f"--{key}"), cut(name), settings, lambda known: known.flag)
                )
            if equals:
                raise UserError(f"--{key} takes no value; write {switch.flag}={cut(text)} instead")
            flags[switch.name] = "false"
            continue
        if not equals:
            takes = setting.takes if setting else "a path"
            if setting and setting.kind is bool and left[-1:] not in (["true"], ["false"], [NONE]):
                text = "true"
            elif not left or left[-1].startswith("--"):
                raise UserError(f"--{key} got no value; it takes {takes}")
            else:
                text = left.pop()
        if setting is not None:
            flags[name] = text
        elif file is not None:
            raise UserError(f"--config got two files, {file} and {text}; it takes one")
        else:
            try:
                file = path_from(text)
            except ValueError:
                raise UserError(f"--config got {shown(text)}; it takes a path") from None
    return flags, file


def _resumed(flags: dict[str, str], file: Path | None, setting: Setting) -> Path:
    """The settings of the run to be resumed; others may be given only where they change no
    number that was computed before. The directory itself, not a -latest link, which another run
    may move while this one writes."""
    if file is not None:
        raise UserError(f"--resume takes the run's own settings; leave --config {file} out")
    for name in flags:
        if name not in _RESUMED_WITH and name.split(".")[0] not in _RESUMED_WITH:
            raise UserError(
                f"--resume takes the run's own settings; leave --{name.replace('_', '-')} out, or "
                "start a new run"
            )
    given: Path = _accept(setting.from_text, setting, flags["resume"], setting.flag)
    directory = output_root() / given.expanduser()
    if not is_file(directory / _STORED_SETTINGS, setting.flag):
        raise UserError(
            f"--resume got {directory}, which has no {_STORED_SETTINGS}; it takes the directory of "
            "a run, as the run's first and last lines name it"
        )
    return Path(os.path.realpath(directory)) / _STORED_SETTINGS


def _negated(name: str, settings: Settings) -> Setting | None:
    """The switch that --no-NAME turns off."""
    setting = settings.get(name.removeprefix("no_")) if name.startswith("no_") else None
    return setting if setting is not None and setting.kind is bool else None


def _read_toml(file: Path, flag: str) -> Tree:
    text = read_document(file, flag, _LARGEST_CONFIG)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(
            f"{flag} got {file}, which is not TOML: {error}; mend it, or give another"
        ) from None
    except RecursionError:
        raise UserError(
            f"{flag} got {file}, whose brackets are nested too deep; no setting takes more than "
            "one list"
        ) from None
    except ValueError:  # of int(), which reads no more digits than that
        raise UserError(
            f"{flag} got {file}, where a number has more than {sys.get_int_max_str_digits():,} "
            "digits; write a smaller one"
        ) from None


def _flatten(tree: Tree, settings: Settings, file: Path, prefix: str = "") -> Tree:
    """Values of a TOML tree by dotted setting name; unknown keys are refused."""
    flat: Tree = {}
    for key, value in tree.items():
        name = prefix + key
        inside = any(known.startswith(name + ".") for known in settings)
        if name in settings:
            flat[name] = value
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
    near = difflib.get_close_matches(name, namesakes, 1, cutoff=0) or difflib.get_close_matches(
        name, settings, 1
    )
    hint = f"did you mean {spell(settings[near[0]])}?" if near else "--help lists every setting"
    return f"unknown setting {written}; {hint}"
