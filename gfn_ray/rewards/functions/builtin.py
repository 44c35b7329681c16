"""The reward functions that have a name: exact, regex, contains, contains_all, math and json.

Each judges one completion by columns of its row, between 0 and 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from gfn_ray.data.strict_json import parse_json
from gfn_ray.rewards.functions.calling import Arguments, Faults, Rewards, call
from gfn_ray.rewards.functions.numbers import final_number

Columns = Mapping[str, Any]
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)


def exact(text: str, columns: Columns) -> float:
    """1 where the completion is the row's answer, white space and capitals aside."""
    return float(_folded(text) == _folded(str(columns["answer"])))


def regex(text: str, columns: Columns) -> float:
    """1 where the row's pattern is found in the completion."""
    return float(re.search(columns["pattern"], text) is not None)


def contains(text: str, columns: Columns) -> float:
    """The share of the row's words that the completion has, as whole words, capitals aside."""
    words = listed(columns["words"])
    found = [re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in words]
    return sum(one is not None for one in found) / len(words)


def contains_all(text: str, columns: Columns) -> float:
    """1 where the completion has all of the row's words, as `contains` counts them."""
    return float(contains(text, columns) == 1)


def math(text: str, columns: Columns) -> float:
    """1 where the completion ends in the number that the row's answer ends in."""
    number = final_number(text)
    return float(number is not None and number == final_number(str(columns["answer"])))


def json_valid(text: str, columns: Columns) -> float:
    """1 where the completion is JSON, in a code block or by itself, that fits the row's schema."""
    block = _FENCE.search(text)
    try:
        value = parse_json(block[1] if block else text)
    except ValueError:
        return 0.0
    schema = columns.get("schema")
    return float(schema is None or _validator(json.dumps(schema)).is_valid(value))


@dataclass(frozen=True)
class BuiltIn:
    """needs: columns that it cannot do without. check: raises ValueError, in words, where the
    cells of a row are not what it takes."""

    name: str
    function: Callable[[str, Columns], float]
    needs: tuple[str, ...] = ()
    check: Callable[[Columns], None] = lambda _: None

    def __call__(self, arguments: Arguments) -> tuple[Rewards, Faults]:
        """As `calling.call`."""
        return call(self._judge, arguments)

    def _judge(
        self, prompts: object, completions: list[Any], completion_ids: object, **columns: list[Any]
    ) -> Rewards:
        rows = [
            {name: cells[i] for name, cells in columns.items()} for i in range(len(completions))
        ]
        texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
        return [self.function(text, row) for text, row in zip(texts, rows, strict=True)]


def listed(words: Any) -> list[str]:
    """Words of a list, or of a text with commas between them."""
    parts = words.split(",") if isinstance(words, str) else [str(word) for word in words]
    return [word.strip() for word in parts if word.strip()]


def _check_pattern(columns: Columns) -> None:
    try:
        re.compile(columns["pattern"])
    except (re.error, TypeError) as error:
        raise ValueError(f"pattern is no regular expression: {error}") from None


def _check_words(columns: Columns) -> None:
    words = columns["words"]
    if not isinstance(words, str | list) or not listed(words):
        raise ValueError("words takes a list of words, or a text with commas between them")


def _check_number(columns: Columns) -> None:
    if final_number(str(columns["answer"])) is None:
        raise ValueError(f"answer holds no number: {str(columns['answer'])[:60]!r}")


def _check_schema(columns: Columns) -> None:
    if (schema := columns.get("schema")) is None:
        return
    from jsonschema import SchemaError

    try:
        validator = _validator(json.dumps(schema))
        validator.check_schema(validator.schema)
    except (SchemaError, ValueError) as error:
        message = getattr(error, "message", error)
        raise ValueError(f"schema is no JSON schema: {message}") from None


@lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    """schema: JSON, of an object or of a text that holds one."""
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    read = json.loads(schema)
    read = parse_json(read) if isinstance(read, str) else read
    # An empty registry: without one, a reference to another document would be fetched.
    return validator_for(read, Draft202012Validator)(read, registry=Registry())


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


BUILT_IN = {
    one.name: one
    for one in (
        BuiltIn("exact", exact, ("answer",)),
        BuiltIn("regex", regex, ("pattern",), _check_pattern),
        BuiltIn("contains", contains, ("words",), _check_words),
        BuiltIn("contains_all", contains_all, ("words",), _check_words),
        BuiltIn("math", math, ("answer",), _check_number),
        BuiltIn("json", json_valid, (), _check_schema),
    )
}
