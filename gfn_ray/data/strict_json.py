"""Strict JSON, without the extensions that Python's reader accepts.

Parses one text. Raises ValueError, worded for its author, for anything that is not JSON, a repeated
key in an object, NaN, a number out of range, half of a surrogate pair, and too deep nesting.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from gfn_ray.errors import shown

_MOST_DIGITS = 18  # of a whole number, to fit in 64 bits


def parse_json(text: str) -> Any:
    """Returns the value of a JSON text; raises ValueError with the location of an error."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        raise ValueError(f"{error.msg} at {line}column {error.colno}; fix it there") from None
    except RecursionError:
        raise ValueError("its brackets are nested too deep; flatten it") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {shown(key)} occurs twice in one object; leave one out")
        if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
            raise ValueError(
                f"the text of {shown(key)} has half of a surrogate pair; write both, as in "
                "\\ud83d\\ude00"
            )
        found[key] = value
    return found


def _whole(digits: str) -> int:
    if len(digits.removeprefix("-")) > _MOST_DIGITS:
        raise ValueError(f"a whole number of more than {_MOST_DIGITS} digits; write a smaller one")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {shown(digits)} is too large; write a smaller one")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; write a number or null")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_whole, parse_float=_finite, parse_constant=_no_constant
)
