"""What every support answers, whatever rule decides which tokens are legal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from gfn_ray.trajectory import BoolArray, IntArray

Answer = Callable[[IntArray], IntArray]
"""The tokens that a tool writes after a prefix of z that calls it."""


class Cursor(Protocol):
    """A place in a growing z, for whoever samples it token by token."""

    @property
    def row(self) -> int:
        """Row of `Support.masks` that rules the next token."""
        ...

    def advance(self, token: int) -> None:
        """Goes past one token, the policy's or a tool's."""
        ...


class Support(Protocol):
    """Which tokens are legal after a prefix. Part of the policy, so sampler and learner share it.

    max_len: most tokens that z can have. stop_ids: the terminator, as a set of tokens that z
    itself never contains.
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
        """Rows of `masks` [T+1] that rule the policy's next token after each prefix of z."""
        ...

    def cursor(self) -> Cursor:
        """The place before the first token; `mask_rows`, one token at a time."""
        ...

    def terminable(self, token_ids: Sequence[int] | IntArray) -> BoolArray:
        """Prefixes [T+1] that may stop."""
        ...

    def tool_mask(self, token_ids: Sequence[int] | IntArray) -> BoolArray:
        """Tokens [T] that a tool writes, not the policy."""
        ...

    def contains(self, token_ids: Sequence[int] | IntArray, answer: Answer | None = None) -> bool:
        """Whether the policy, with its tools, can produce exactly this z and then stop. Any
        numbers may be asked about.

        answer: the tool's; without it, what stands where a tool writes is taken for its answer.
        """
        ...
