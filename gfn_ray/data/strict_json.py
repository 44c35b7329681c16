"""JSON as its standard has it: what Python's reader lets pass beside it is refused.

Owns the reading of one text. ValueError, in words for the person who wrote it, for anything that
is no JSON, a key that stands twice in an object, NaN, a number that nothing can hold, half of a
surrogate pair, and brackets too deep to be followed.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from gfn_ray.errors import shown

_MOST_DIGITS = 18  # of a whole number: what 64 bits hold


def parse_json(text: str) -> Any:
    """The value that the text spells; ValueError with the place where it spells none."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        raise ValueError(f"{error.msg} at {line}column {error.colno}") from None
    except RecursionError:
        raise ValueError("its brackets are nested too deep; flatten it") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {shown(key)} stands twice in one object; leave one out")
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
    raise ValueError(f"{name} is no JSON; write a number or null")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_whole, parse_float=_finite, parse_constant=_no_constant
)
