"""The language of arithmetic rationales: " 6 - 0 = 6, 6 - 4 = 2, 2 - 8 = -6".

Defines which characters may follow which, and which of them a calculator writes. Every rationale
ends by construction, because equations and digits are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Place = Literal["start", "left", "sign", "after sign", "right", "equals", "due", "answer"]

# Places that take one of a few characters, and the place that follows.
_FIXED: dict[Place, tuple[str, Place]] = {
    "start": (" ", "left"),
    "sign": ("+-", "after sign"),
    "after sign": (" ", "right"),
    "equals": ("=", "due"),
    "due": (" ", "answer"),
}


class State(NamedTuple):
    """A position in a text. equation: 0-based. digits: those written of the current number; -1
    after a minus. full: the number may not grow, because it is 0 or has all its digits."""

    equation: int
    place: Place
    digits: int = 0
    full: bool = False


@dataclass(frozen=True)
class ArithmeticGrammar:
    """Equations of two operands, each after a space, separated by commas.

    Numbers have no leading zeros and there is no -0. A text may end only after an answer. There
    the policy may only end or write a comma, so that it cannot add a digit to the calculator's
    answer. calculator: whether a tool writes the answers, or the policy, which can make mistakes.
    """

    equations: int
    digits: int
    calculator: bool = True

    @property
    def start(self) -> State:
        return State(0, "start")

    def step(self, state: State, character: str) -> State | None:
        """Returns the state after a character; None if no rationale continues with it."""
        n, place = state.equation, state.place
        if place in _FIXED:
            characters, following = _FIXED[place]
            return State(n, following) if character in characters else None
        grown = self._grown(state, character)
        if grown is not None or state.digits < 1:
            return grown
        if place == "answer":
            return State(n + 1, "start") if character == "," and n + 1 < self.equations else None
        return State(n, "sign" if place == "left" else "equals") if character == " " else None

    def by_tool(self, state: State, character: str) -> bool:
        """Whether the calculator writes this character."""
        return (
            self.calculator
            and state.place in ("due", "answer")
            and (character == " " or character == "-" or character.isdigit())
        )

    def may_stop(self, state: State) -> bool:
        """Whether the text may end: after an answer with a digit in it."""
        return state.place == "answer" and state.digits > 0

    def _grown(self, state: State, character: str) -> State | None:
        """Returns the state of a number with one more character; None if that is illegal."""
        if character == "-" and state.digits == 0:
            return state._replace(digits=-1)
        if not ("0" <= character <= "9") or state.full:
            return None
        if character == "0" and state.digits == -1:
            return None
        written = max(state.digits, 0) + 1
        # A sum of two numbers may have one digit more than they have.
        most = self.digits + (state.place == "answer")
        zero = character == "0" and state.digits == 0
        return state._replace(digits=written, full=zero or written == most)
