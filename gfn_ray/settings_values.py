"""Settings as values: from TOML and flags to a config, and from a config to TOML.

Owns every check of a single value and the one-line error for it, which names the flag or the file
that the value came from.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, to_json

from gfn_ray.data.files import read_document
from gfn_ray.errors import UserError, cut, shown
from gfn_ray.settings import (
    NONE,
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
    return resolved(job, settings, flatten(tree, settings, file), {}, file)


def read_toml(file: Path, flag: str) -> Tree:
    text = read_document(file, flag, _LARGEST_CONFIG)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # the latter from deeply nested brackets
        raise UserError(
            f"{flag} got {file}, which is not TOML: {error}; fix it, or give another"
        ) from None


def flatten(tree: Tree, settings: Settings, file: Path, prefix: str = "") -> Tree:
    """Returns the values of a TOML tree by dotted setting name; refuses unknown keys."""
    flat: Tree = {}
    for key, value in tree.items():
        name = prefix + key
        inside = any(known.startswith(name + ".") for known in settings)
        if name in settings:
            flat[name] = None if settings[name].optional and value == NONE else value
        elif inside and isinstance(value, dict):
            flat.update(flatten(value, settings, file, name + "."))
        elif inside:
            raise UserError(f"{name} in {file} got {shown(value)}; it is a section, [{name}]")
        else:
            raise UserError(
                unknown(f"{cut(name)} in {file}", cut(name), settings, lambda known: known.name)
            )
    return flat


def resolved(
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
        check(setting, origins[name], value)
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


def check(setting: Setting, origin: str, value: Any) -> None:
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


def unknown(written: str, name: str, settings: Settings, spell: Callable[[Setting], str]) -> str:
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
