"""The interface of supports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from gfn_ray.trajectory import BoolArray, IntArray

Answer = Callable[[IntArray], IntArray]
"""Maps a prefix of z that calls a tool to the tokens that the tool writes."""


class Cursor(Protocol):
    """A position in a growing z, for token-by-token sampling."""

    @property
    def row(self) -> int:
        """Row of `Support.masks` for the next token."""
        ...

    def advance(self, token: int) -> None:
        """Moves past one token, the policy's or a tool's."""
        ...


class Support(Protocol):
    """Which tokens are legal after a prefix. Part of the policy, so sampler and learner share it.

    max_len: length of the longest z, in tokens. stop_ids: the terminator, as a set of tokens
    that z itself never contains.
    """

    @property
    def max_len(self) -> int: ...

    @property
    def stop_ids(self) -> IntArray: ...

    @property
    def vocab_size(self) -> int:
        """Length V of the model's logits."""
        ...

    @property
    def masks(self) -> BoolArray:
        """Legality rows [M, V]; row numbers come from `mask_rows`."""
        ...

    @property
    def may_be_empty(self) -> bool:
        """Whether the empty z may stop."""
        ...

    def mask_rows(self, token_ids: Sequence[int] | IntArray) -> IntArray:
        """Returns the row of `masks` for the policy's next token after each prefix of z [T+1]."""
        ...

    def cursor(self) -> Cursor:
        """Returns a cursor before the first token: `mask_rows`, one token at a time."""
        ...

    def terminable(self, token_ids: Sequence[int] | IntArray) -> BoolArray:
        """Returns which prefixes may stop [T+1]."""
        ...

    def tool_mask(self, token_ids: Sequence[int] | IntArray) -> BoolArray:
        """Returns which tokens a tool writes [T], not the policy."""
        ...

    def contains(self, token_ids: Sequence[int] | IntArray, answer: Answer | None = None) -> bool:
        """Whether the policy, with its tools, can produce exactly this z and then stop. Accepts
        any numbers as ids.

        answer: the tool's; without it, any tokens where a tool writes count as its answer.
        """
        ...
