"""The number that a text of mathematics ends in, exactly: \\boxed{}, ####, or the last one."""

from __future__ import annotations

import re
from fractions import Fraction

# 1,234.5, .5, -3/4, and \\frac{3}{4}; thousands in threes, so that "1, 2" is no number.
_PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)])[-−+]\s*)?[$€£]?\s*"
    rf"(?:\\[dt]?frac\{{(?P<top>{_PLAIN})\}}\{{(?P<bottom>{_PLAIN})\}}"
    rf"|(?P<number>{_PLAIN})(?:\s*/\s*(?P<under>{_PLAIN}))?)"
)
_MARKER = "####"
_BOXED = "\\boxed{"
_MOST_DIGITS = 100  # of a number: longer ones are no answer, and slow to compare


def final_number(text: str) -> Fraction | None:
    """The last number in the last \\boxed{}, else after the last ####, else of the whole text."""
    found = [match for match in _NUMBER.finditer(_final_part(text)) if len(match[0]) < _MOST_DIGITS]
    return _value(found[-1]) if found else None


def _final_part(text: str) -> str:
    if (start := text.rfind(_BOXED)) >= 0:
        return _in_braces(text[start + len(_BOXED) :])
    return text.rpartition(_MARKER)[2]


def _in_braces(text: str) -> str:
    """The text up to the brace that closes one opened before it."""
    depth = 1
    for at, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if not depth:
            return text[:at]
    return text


def _value(match: re.Match[str]) -> Fraction | None:
    top = match["top"] or match["number"]
    bottom = match["bottom"] or match["under"] or "1"
    over, under = (Fraction(part.replace(",", "")) for part in (top, bottom))
    if not under:
        return None
    negative = (match["sign"] or "+").strip() != "+"
    return -over / under if negative else over / under
