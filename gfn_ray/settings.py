"""A config class seen as a flat list of named settings.

Owns what each setting takes, in words, and how its value is read from text and from
TOML. Knows neither the command line nor any setting by name: everything is made from
the fields of the pydantic model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

Tree = dict[str, Any]

NONE = "none"
"""How "no value" is written in flags and in TOML, which has no null."""

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_METAVARS = {bool: "", int: " N", float: " NUMBER", str: " TEXT", Path: " PATH"}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


@dataclass(frozen=True)
class Setting:
    """One setting: its dotted name, type, default and pydantic field. rules: bounds of a value.
    words: what may stand in place of one, and is the value then."""

    name: str
    kind: Any
    optional: bool
    default: Any
    field: FieldInfo
    rules: tuple[Any, ...]
    words: tuple[str, ...]

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def required(self) -> bool:
        return self.default is PydanticUndefined

    @property
    def takes(self) -> str:
        """What the setting takes, in words; help and errors share it."""
        if get_origin(self.kind) is Literal:
            words = "one of " + ", ".join(map(str, get_args(self.kind)))
        elif get_origin(item := _item(self.kind)) is Literal:
            words = f"some of {', '.join(map(str, get_args(item)))}, with commas between"
        elif item is not None:
            words = f"{_WORDS.get(item, 'paths')}, or several with commas between"
            if (number := _length(self.kind)) is not None:
                words = f"{_WORDS[item]}, {number} of it with commas between"
        else:
            words = _WORDS.get(self.kind, "a path")
        bounds = [
            f"{word} {bound:,}" if isinstance(bound, int) else f"{word} {bound:g}"
            for rule in self.rules
            for name, word in _BOUNDS.items()
            if (bound := getattr(rule, name, None)) is not None
        ]
        others = [f"or {word}" for word in self.words] + ["or none"] * self.optional
        return ", ".join([words, *bounds, *others])

    @property
    def metavar(self) -> str:
        """What stands for the value after the flag in help; a switch has none."""
        if get_origin(self.kind) is Literal:
            return " " + "|".join(map(str, get_args(self.kind)))
        return " A,B,..." if _item(self.kind) else _METAVARS.get(self.kind, " VALUE")

    @property
    def shown_default(self) -> str:
        if self.required:
            return "required"
        default = self.default
        if isinstance(default, (tuple, list)):
            default = ",".join(map(str, default))
        if isinstance(default, bool):
            return f"default {str(default).lower()}"
        spaced = isinstance(default, str) and default.split() != [default]
        return f"default {default!r}" if spaced else f"default {to_toml(default)}"

    def from_text(self, text: str) -> Any:
        """The value that a flag's text spells; ValueError where it spells none, OverflowError
        where that is beyond what a number holds."""
        if text in self.words:
            return text
        return None if self.optional and text == NONE else _from_text(self.kind, text)

    def from_toml(self, value: Any) -> Any:
        """The value of a TOML value, in the same way; nothing is guessed on another type."""
        if isinstance(value, str) and value in self.words:
            return value
        return None if self.optional and value == NONE else _from_toml(self.kind, value)


def settings_of(
    model: type[BaseModel], defaults: BaseModel | None = None, prefix: str = ""
) -> dict[str, Setting]:
    """Every setting below a model by dotted name, section after section.

    A section's defaults are those of its own default factory, which may differ from the
    defaults of the section's class.
    """
    found: dict[str, Setting] = {}
    for name, field in model.model_fields.items():
        if defaults is not None:
            default = getattr(defaults, name)
        else:
            default = field.get_default(call_default_factory=True, validated_data={})
        if is_section(field.annotation):
            section = default if isinstance(default, BaseModel) else None
            found.update(settings_of(field.annotation, section, f"{prefix}{name}."))
        else:
            kind, optional, words = _alternatives(field.annotation)
            rules = tuple(field.metadata)
            if get_origin(kind) is Annotated:  # where words may stand for it, it has its own bounds
                kind, *inner = get_args(kind)
                rules += tuple(rule for one in inner for rule in one.metadata)
            if not _is_spellable(kind):
                raise TypeError(f"{prefix}{name} is a {kind}, which a flag cannot spell")
            found[prefix + name] = Setting(
                prefix + name, kind, optional, default, field, rules, words
            )
    return found


def is_section(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def put(tree: Tree, name: str, value: Any) -> None:
    """Write a value at a dotted name of a nested dict."""
    *sections, key = name.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[key] = value


def get(tree: Tree, name: str) -> Any:
    """The value at a dotted name of a nested dict."""
    value: Any = tree
    for key in name.split("."):
        value = value[key]
    return value


def to_toml(value: Any) -> Any:
    """A value as TOML can hold it."""
    if value is None:
        return NONE
    if isinstance(value, Path):
        return str(value)
    return [to_toml(item) for item in value] if isinstance(value, (tuple, list)) else value


def _item(kind: Any) -> Any:
    """X of tuple[X, ...] and list[X]; None for anything else."""
    return get_args(kind)[0] if get_origin(kind) in (tuple, list) else None


def _length(kind: Any) -> int | None:
    """2 of tuple[X, X]; None for tuple[X, ...] and list[X]."""
    members = get_args(kind)
    return None if len(members) == 1 or Ellipsis in members else len(members)


def _alternatives(annotation: Any) -> tuple[Any, bool, tuple[str, ...]]:
    """X, whether there may be none, and the words in its place: of X, X | None and X | Literal."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation, False, ()
    members = [member for member in get_args(annotation) if member is not NoneType]
    optional = len(members) < len(get_args(annotation))
    words = tuple(word for member in members[1:] for word in get_args(member))
    return members[0], optional, words


def _is_spellable(kind: Any) -> bool:
    item = _item(kind)
    plain = kind if item is None else item
    return get_origin(plain) is Literal or plain in (bool, int, float, str, Path)


def _from_text(kind: Any, text: str) -> Any:
    if get_origin(kind) is Literal:
        return _pick({str(choice): choice for choice in get_args(kind)}, text)
    if (item := _item(kind)) is not None:
        return get_origin(kind)(_from_text(item, part.strip()) for part in text.split(","))
    if kind is bool:
        return _pick({"true": True, "false": False}, text)
    if kind is int:
        return _sized(int(text))
    if kind is float:
        return _finite(float(text))
    return _from_toml(kind, text)


def _from_toml(kind: Any, value: Any) -> Any:
    if get_origin(kind) is Literal:
        # By type as well, for in Python True == 1.
        choices = {(type(choice), choice): choice for choice in get_args(kind)}
        return _pick(choices, (type(value), value))
    if (item := _item(kind)) is not None and isinstance(value, list):
        return get_origin(kind)(_from_toml(item, part) for part in value)
    if kind is Path and isinstance(value, str):
        return path_from(value)
    if kind is float and type(value) in (int, float):
        return _finite(float(value))
    if kind is int and type(value) is int:
        return _sized(value)
    if type(value) is kind:
        return value
    raise ValueError


def _pick(choices: dict[Any, Any], key: Any) -> Any:
    # Unhashable TOML values (lists, tables) are no choice either.
    if not any(known == key for known in choices):
        raise ValueError
    return choices[key]


def path_from(text: str) -> Path:
    """The path of a text; ValueError for one that the system can hold no file at."""
    if not text or "\0" in text:
        raise ValueError
    path = Path(text)
    try:
        path.expanduser()
    except RuntimeError:  # ~name of nobody
        raise ValueError from None
    return path


def _sized(number: int) -> int:
    """Seeds and sizes end up in arrays and messages, of 64 bits a number."""
    if abs(number) >= 2**63:
        raise OverflowError
    return number


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError
    return number
