"""The support of free text: a vocabulary, bounds on the length of z, and where z may stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gfn_ray.support.protocol import Answer
from gfn_ray.trajectory import BoolArray, IntArray


class BoundedCursor:
    """A position in a z of a bounded support."""

    def __init__(self, support: BoundedSupport) -> None:
        self._support = support
        self._length = 0
        self._last: int | None = None

    @property
    def row(self) -> int:
        return self._support.mask_row(self._length, self._last)

    def advance(self, token: int) -> None:
        self._length += 1
        self._last = token


@dataclass(frozen=True, eq=False)
class BoundedSupport:
    """Tokens of a vocabulary, with bounds on the length and rules for the first and last token.

    content [V]: tokens z may contain. opening [V]: the subset legal as z_1. enders [V]:
    the subset after which z may stop, and the only tokens legal as z_max_len, so that
    no trajectory is a dead end. stop_ids: the terminator, as a set of tokens outside
    content. Stopping is legal from min_len tokens on, after an ender, and at once if
    min_len is 0; at max_len it is the only legal action, so log q(stop) = 0 there.
    """

    content: BoolArray
    opening: BoolArray
    enders: BoolArray
    stop_ids: IntArray
    min_len: int
    max_len: int

    # A legality row is selected by three independent flags of the prefix, plus "closed".
    _FIRST, _LAST, _STOP, CLOSED = 1, 2, 4, 8

    def __post_init__(self) -> None:
        if not (0 <= self.min_len <= self.max_len and self.max_len >= 1):
            raise ValueError(
                f"need 0 <= min_len <= max_len and max_len >= 1, got {self.min_len}, {self.max_len}"
            )
        if len(self.stop_ids) == 0 or self.content[self.stop_ids].any():
            raise ValueError("stop_ids must be non-empty and outside the content vocabulary")
        first_and_last = self.opening & self.enders if self.max_len == 1 else self.enders
        for name, mask in (
            ("opening", self.opening & self.content),
            ("enders", first_and_last & self.content),
        ):
            if not mask.any():
                raise ValueError(f"no legal token is left in {name}: every z would be a dead end")

    @property
    def vocab_size(self) -> int:
        return len(self.content)

    @cached_property
    def masks(self) -> BoolArray:
        """Legality rows [9, V]; row numbers come from mask_row."""
        stop = np.zeros_like(self.content)
        stop[self.stop_ids] = True
        rows = np.zeros((self.CLOSED + 1, self.vocab_size), dtype=np.bool_)
        for row in range(self.CLOSED):
            legal = self.content.copy()
            if row & self._FIRST:
                legal &= self.opening
            if row & self._LAST:
                legal &= self.enders
            rows[row] = legal | stop if row & self._STOP else legal
        rows[self.CLOSED] = stop
        return rows

    @property
    def may_be_empty(self) -> bool:
        """Whether the empty z may stop."""
        return self.min_len == 0

    def may_stop(self, length: int, last_token: int | None) -> bool:
        """Whether a prefix of this length that ends in last_token may stop."""
        if length == 0:
            return self.min_len == 0
        return length >= self.min_len and last_token is not None and bool(self.enders[last_token])

    def mask_row(self, length: int, last_token: int | None) -> int:
        """Returns the row of `masks` for the token after a prefix."""
        if length >= self.max_len:
            return self.CLOSED
        row = self._FIRST if length == 0 else 0
        if length == self.max_len - 1:
            row |= self._LAST
        if self.may_stop(length, last_token):
            row |= self._STOP
        return row

    def mask_rows(self, token_ids: Sequence[int] | IntArray) -> IntArray:
        """Returns the row of `masks` after each prefix of z [T+1]."""
        tokens = [int(token) for token in token_ids]
        return np.array(
            [self.mask_row(t, tokens[t - 1] if t else None) for t in range(len(tokens) + 1)],
            dtype=np.int32,
        )

    def cursor(self) -> BoundedCursor:
        """Returns a cursor before the first token."""
        return BoundedCursor(self)

    def terminable(self, token_ids: Sequence[int] | IntArray) -> BoolArray:
        """Returns which prefixes may stop [T+1]."""
        tokens = [int(token) for token in token_ids]
        return np.array(
            [self.may_stop(t, tokens[t - 1] if t else None) for t in range(len(tokens) + 1)],
            dtype=np.bool_,
        )

    def tool_mask(self, token_ids: Sequence[int] | IntArray) -> BoolArray:
        """Returns which tokens a tool writes [T]: none."""
        return np.zeros(len(token_ids), dtype=np.bool_)

    def contains(self, token_ids: Sequence[int] | IntArray, answer: Answer | None = None) -> bool:
        """Whether the policy can produce exactly this z and then stop; no tool takes part."""
        tokens = [int(token) for token in token_ids]
        if len(tokens) > self.max_len:
            return False
        # Stop tokens are legal in most rows, but never part of z.
        if not all(0 <= token < self.vocab_size and self.content[token] for token in tokens):
            return False
        rows = self.mask_rows(tokens)
        legal = all(self.masks[row, token] for row, token in zip(rows[:-1], tokens, strict=True))
        return legal and self.may_stop(len(tokens), tokens[-1] if tokens else None)
