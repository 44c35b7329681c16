"""The support of a whole answer: any text, up to an end-of-text token or a stop string.

z may stop after any token, but it has a target only as a whole: its prefixes are no nodes of a
loss. A stop string is a part of z, and the token that completes one is the last: only stopping is
legal then. So it is at max_len, and no z is a dead end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from gfn_ray.support.protocol import Answer
from gfn_ray.trajectory import BoolArray, IntArray

# Rows of the masks.
_FIRST, _OPEN, _CLOSED = range(3)


class WholeCursor:
    """A place in a z of such a support."""

    def __init__(self, support: WholeSupport) -> None:
        self._support = support
        self._length = 0
        self._tail = ""
        self.closed = False
        """Whether a stop string has ended z."""

    @property
    def row(self) -> int:
        if self.closed or self._length >= self._support.max_len:
            return _CLOSED
        return _OPEN if self._length else _FIRST

    def advance(self, token: int) -> None:
        self._length += 1
        text = self._support.pieces.get(token)
        self._tail = "" if text is None else self._tail + text
        self.closed = self.closed or any(stop in self._tail for stop in self._support.stops)
        # What a stop string could still be completed from.
        self._tail = self._tail[len(self._tail) - min(len(self._tail), self._support.longest - 1) :]


@dataclass(frozen=True, eq=False)
class WholeSupport:
    """content [V]: tokens z may contain. stop_ids: the terminator, outside of content. max_len:
    most tokens of z; it has one at least. stops: strings that end z.

    pieces: the text of every token that a stop string could run through, by id, as `pieces_of`
    finds them. No other token may hold a part of one.
    """

    content: BoolArray
    stop_ids: IntArray
    max_len: int
    stops: tuple[str, ...] = ()
    pieces: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_len < 1:
            raise ValueError(f"need max_len >= 1, got {self.max_len}")
        if len(self.stop_ids) == 0 or self.content[self.stop_ids].any():
            raise ValueError("stop_ids must be non-empty and outside the content vocabulary")
        if not self.content.any():
            raise ValueError("content is empty: every z would be a dead end")

    @cached_property
    def longest(self) -> int:
        """Characters of the longest stop string, at least 1."""
        return max(map(len, self.stops), default=1)

    @property
    def vocab_size(self) -> int:
        return len(self.content)

    @cached_property
    def masks(self) -> BoolArray:
        """Legality rows [3, V]: of the first token, of later ones, and where z is at its end."""
        stop = np.zeros_like(self.content)
        stop[self.stop_ids] = True
        return np.stack([self.content, self.content | stop, stop])

    @property
    def may_be_empty(self) -> bool:
        """The empty z may not stop."""
        return False

    def mask_rows(self, token_ids: Sequence[int] | IntArray) -> IntArray:
        """Rows of `masks` [T+1] after each prefix of z."""
        cursor = self.cursor()
        rows = [cursor.row]
        for token in token_ids:
            cursor.advance(int(token))
            rows.append(cursor.row)
        return np.array(rows, dtype=np.int32)

    def cursor(self) -> WholeCursor:
        """The place before the first token."""
        return WholeCursor(self)

    def terminable(self, token_ids: Sequence[int] | IntArray) -> BoolArray:
        """Prefixes [T+1] that stand for an answer: z as a whole, if it has a token."""
        found = np.zeros(len(token_ids) + 1, dtype=np.bool_)
        found[-1] = len(token_ids) > 0
        return found

    def tool_mask(self, token_ids: Sequence[int] | IntArray) -> BoolArray:
        """Tokens [T] that a tool writes: none."""
        return np.zeros(len(token_ids), dtype=np.bool_)

    def must_stop(self, token_ids: Sequence[int] | IntArray) -> bool:
        """Whether only stopping is legal after this z: it has no terminator to be scored."""
        return bool(self.mask_rows(token_ids)[-1] == _CLOSED)

    def contains(self, token_ids: Sequence[int] | IntArray, answer: Answer | None = None) -> bool:
        """Whether the policy can produce exactly this z and then stop. No tool writes in it."""
        tokens = [int(token) for token in token_ids]
        if not 1 <= len(tokens) <= self.max_len:
            return False
        if not all(0 <= token < self.vocab_size and self.content[token] for token in tokens):
            return False
        return _CLOSED not in self.mask_rows(tokens)[:-1]


def pieces_of(texts: Sequence[str], stops: Sequence[str]) -> dict[int, str]:
    """The tokens that a stop string could run through, from the text of every token [V]."""
    found = {}
    for token, text in enumerate(texts):
        if text and any(_touches(text, stop) for stop in stops):
            found[token] = text
    return found


def _touches(text: str, stop: str) -> bool:
    """Whether an occurrence of `stop` may have this text as its part, or begin or end in it."""
    if stop in text or text in stop:
        return True
    most = min(len(text), len(stop)) - 1
    return any(
        text.endswith(stop[:size]) or text.startswith(stop[-size:]) for size in range(1, most + 1)
    )
