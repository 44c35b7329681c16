"""A config class as a list of named settings.

Derives what each setting takes, in words, and the value of a flag's text from the JSON schema that
pydantic makes of the class. Validating values is left to pydantic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

Tree = dict[str, Any]

NONE = "none"
"""Stands for "no value" in flags and in TOML, which has no null."""

REQUIRED = object()
"""Stands for the default of a setting without one."""

_NULL = {"type": "null"}
_WORDS = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
}
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


@dataclass(frozen=True)
class Setting:
    """One setting: its dotted name, the JSON schema of its values, what it takes, in words, its
    default as JSON, and its heading in the help.

    kinds: the kinds of its section that have it, if the section has kinds. switch: the setting
    that selects the kind.
    """

    name: str
    schema: Tree
    takes: str
    default: Any
    heading: str = ""
    switch: str = ""
    kinds: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def optional(self) -> bool:
        return _NULL in self.schema.get("anyOf", [])

    @property
    def main(self) -> Tree:
        """Schema X of X | None and of X | Literal, whose words stay texts."""
        found: Tree = self.schema.get("anyOf", [self.schema])[0]
        return found

    @property
    def is_bool(self) -> bool:
        return self.main.get("type") == "boolean"

    @property
    def is_path(self) -> bool:
        """Whether its value is a path or several paths."""
        return self.main.get("items", self.main).get("format") == "path"

    def from_text(self, text: str) -> Any:
        """Returns the value of a flag's text, or the text itself if it cannot be converted."""
        return None if self.optional and text == NONE else _from_text(self.main, text)

    def is_in(self, values: Tree) -> bool:
        """Whether the kind that these values select for its section has it."""
        return not self.kinds or get(values, self.switch) in self.kinds


def settings_of(job: type[BaseModel]) -> dict[str, Setting]:
    """Returns every setting of a job by dotted name, section by section."""
    found: dict[str, Setting] = {}
    for setting in listed(job):
        known = found.get(setting.name, replace(setting, kinds=()))
        found[setting.name] = replace(known, kinds=known.kinds + setting.kinds)
    return found


def listed(job: type[BaseModel]) -> Iterator[Setting]:
    """Yields settings as `--help` shows them: one that several kinds have appears under each."""
    return _section(job, "", "run: The whole run.", defaults_of(job))


def defaults_of(job: type[BaseModel]) -> Tree:
    """Returns every default as JSON; a job's default for a section overrides the class's."""
    return job.model_construct().model_dump(mode="json")


def put(tree: Tree, name: str, value: Any) -> None:
    """Writes a value at a dotted name of a nested dict."""
    *sections, key = name.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[key] = value


def get(tree: Tree, name: str) -> Any:
    """Returns the value at a dotted name of a nested dict."""
    value: Any = tree
    for key in name.split("."):
        value = value[key]
    return value


def path_from(text: str) -> Path:
    """Returns the path of a text; raises ValueError if no file can have that path."""
    if not text or "\0" in text:
        raise ValueError
    path = Path(text)
    try:
        path.expanduser()
    except RuntimeError:  # ~name without such a user
        raise ValueError from None
    return path


def _section(
    model: type[BaseModel],
    name: str,
    heading: str,
    defaults: Tree,
    switch: str = "",
    kinds: tuple[str, ...] = (),
) -> Iterator[Setting]:
    schemas = model.model_json_schema()["properties"]
    below: list[Iterator[Setting]] = []
    for key, field in model.model_fields.items():
        path, schema = f"{name}.{key}" if name else key, schemas[key]
        default = defaults.get(key, schema.get("default", REQUIRED))
        about = f"{path}: {field.description}"
        members = get_args(field.annotation) or [field.annotation]
        models = [one for one in members if isinstance(one, type) and issubclass(one, BaseModel)]
        if len(models) > 1:
            below.append(_kinds(models, path, about, str(field.discriminator), default))
        elif models:
            below.append(_section(models[0], path, about, default))
        elif path != switch:
            yield Setting(path, schema, _takes(schema), default, heading, switch, kinds)
    yield from chain.from_iterable(below)


def _kinds(
    models: list[type[BaseModel]], name: str, heading: str, tag: str, defaults: Tree
) -> Iterator[Setting]:
    switch, kinds = f"{name}.{tag}", {model.model_fields[tag].default: model for model in models}
    schema = {"enum": list(kinds), "description": "One of the kinds below, each with its settings."}
    yield Setting(switch, schema, _takes(schema), defaults[tag], heading)
    for kind, model in kinds.items():
        own = defaults if kind == defaults[tag] else {}
        yield from _section(model, name, f"{switch} {kind}: {model.__doc__}", own, switch, (kind,))


def _takes(schema: Tree) -> str:
    if "anyOf" in schema:
        return ", or ".join(map(_takes, schema["anyOf"]))
    if schema == _NULL:
        return NONE
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if schema["type"] == "array":
        members = schema.get("prefixItems")
        item = members[0] if members else schema["items"]
        if "enum" in item:
            return f"some of {', '.join(item['enum'])}, separated by commas"
        words = "paths" if item.get("format") == "path" else _WORDS[item["type"]]
        number = f"{len(members)} of it" if members else "or several"
        return f"{words}, {number}, separated by commas"
    if schema["type"] not in _WORDS:
        raise TypeError(f"a flag cannot spell a value of {schema}")
    words = "a path" if schema.get("format") == "path" else _WORDS[schema["type"]]
    bounds = [
        f"{word} {bound:,}" if isinstance(bound, int) else f"{word} {bound:g}"
        for key, word in _BOUNDS.items()
        if (bound := schema.get(key)) is not None
    ]
    return ", ".join([words, *bounds])


def _from_text(schema: Tree, text: str) -> Any:
    if schema.get("type") == "array":
        item = schema.get("items") or schema["prefixItems"][0]
        return [_from_text(item, part.strip()) for part in text.split(",")]
    if "enum" in schema:
        return next((choice for choice in schema["enum"] if str(choice) == text), text)
    if schema.get("type") == "boolean":
        return {"true": True, "false": False}.get(text, text)
    number = {"integer": int, "number": float}.get(schema.get("type", ""))
    try:
        return number(text) if number else text
    except ValueError:
        return text
