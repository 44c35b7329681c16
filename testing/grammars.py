"""A small language with a tool: sums of two digits, each answered by a calculator.

    z = SUM (";" SUM)*      SUM = DIGIT "+" DIGIT "=" ANSWER      ANSWER = "0" | "1" | .. | "?"

The policy writes the digits 0, 1 and 5; 2, 6 and "?" occur in answers alone. The answer "1" is
the beginning of another, "10".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gfn_ray.sampling.tools import ToolError, ToolLoop
from gfn_ray.support import GrammarSupport, lift
from gfn_ray.tasks.vocabulary import Vocabulary
from gfn_ray.trajectory import IntArray

DIGITS = "015"
SUMS = ("0", "1", "2", "5", "6", "10")
ERROR = "?"


@dataclass(frozen=True)
class Place:
    """expected: "left", "plus", "right", "equals" or "answer". answered: what the tool wrote
    of its answer. sums: how many are complete or under way."""

    expected: str
    sums: int = 1
    answered: str = ""


class SumGrammar:
    """The language above, with at most `most` sums, as a CharacterGrammar."""

    def __init__(self, most: int = 2) -> None:
        self._most = most
        self.start = Place("left")

    def step(self, state: Place, character: str) -> Place | None:
        following = {"left": "plus", "plus": "right", "right": "equals", "equals": "answer"}
        expected = state.expected
        if expected != "answer":
            legal = {"plus": "+", "equals": "="}.get(expected, DIGITS)
            return Place(following[expected], state.sums) if character in legal else None
        if self.by_tool(state, character):
            return Place("answer", state.sums, state.answered + character)
        if character == ";" and self.may_stop(state) and state.sums < self._most:
            return Place("left", state.sums + 1)
        return None

    def by_tool(self, state: Place, character: str) -> bool:
        answered = state.answered + character
        return state.expected == "answer" and any(
            answer.startswith(answered) for answer in (*SUMS, ERROR)
        )

    def may_stop(self, state: Place) -> bool:
        return state.answered in (*SUMS, ERROR)


class Adder:
    """Answers sums up to a limit, and fails above it."""

    trigger = "="
    error_text = ERROR

    def __init__(self, limit: int = 10) -> None:
        self._limit = limit

    def answer(self, text: str) -> str:
        left, right = text.split(";")[-1].removesuffix("=").split("+")
        total = int(left) + int(right)
        if total > self._limit:
            raise ToolError(f"{total} is above {self._limit}")
        return str(total)


def sum_support(tokenizer: Any, vocab_size: int, most: int = 2) -> GrammarSupport:
    """Every spelling of the language by the tokenizer; z ends at a line break or at eos."""
    vocabulary = Vocabulary(tokenizer, vocab_size)
    stops = [*vocabulary.line_ends().tolist(), tokenizer.eos_token_id]
    return lift(SumGrammar(most), vocabulary.texts, stops)


def whole_language(
    support: GrammarSupport, loop: ToolLoop, prompt_ids: IntArray, z: tuple[int, ...] = ()
) -> Iterator[IntArray]:
    """Every z that the policy can produce after the prompt, the tool's answers being its own."""
    tokens = np.array(z, dtype=np.int32)
    legal = support.masks[support.mask_rows(tokens)[-1]]
    if legal[support.stop_ids].any():
        yield tokens
    for token in np.setdiff1d(np.flatnonzero(legal), support.stop_ids).tolist():
        longer = (*z, token)
        if token in loop.trigger_ids:
            answer = loop.answer_ids(prompt_ids, np.array(longer, dtype=np.int32))
            longer = (*longer, *answer.token_ids.tolist())
        yield from whole_language(support, loop, prompt_ids, longer)
