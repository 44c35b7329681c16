"""The records that flow between actors: queries, trajectories and the support.

Owns what a latent text z is, which prefixes of it may end, and which tokens are
legal where. Knows no torch, Ray or vLLM: arrays are numpy, and the wire form of
every record is a dict of plain scalars and arrays.

Conventions. z = z_1..z_T are the content tokens of a trajectory; the terminator is
not stored. Prefix t is z_1..z_t, so per-prefix arrays have T+1 entries and entry 0
is the empty prefix.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

Proposal = Literal["policy", "tempered", "epsilon", "seed"]
"""How z was proposed. It never changes log q: SubTB is off-policy."""


@dataclass(frozen=True, eq=False)
class Query:
    """One posterior p(z | query) to sample from.

    prompt_ids: what the policy reads before z. context_ids and answer_ids: what the
    frozen LM scores around z, log p(z answer | context). references: known good z, as
    many as the data has. texts: named strings for people and metrics.
    """

    query_id: str
    prompt_ids: IntArray
    context_ids: IntArray
    answer_ids: IntArray
    references: tuple[IntArray, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)

    def to_wire(self) -> dict[str, Any]:
        return {
            "query_id": self.query_id,
            "prompt_ids": self.prompt_ids,
            "context_ids": self.context_ids,
            "answer_ids": self.answer_ids,
            "references": self.references,
            "texts": dict(self.texts),
        }

    @staticmethod
    def from_wire(wire: dict[str, Any]) -> Query:
        return Query(**wire)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One sampled z with everything that reward, replay and learner need.

    token_ids [T]: content tokens, terminator left out.
    tool_mask [T]: True where a tool, not the policy, wrote the token (log q = 0 there).
    terminable [T+1]: True where the prefix may end; these are the nodes of the loss.
    log_reward [T+1]: untempered log R in nats at terminable prefixes, NaN elsewhere;
        None until a reward actor has scored the trajectory.
    policy_version: adapter version that proposed z (-1: not a policy sample).
    stopped: the policy chose the terminator, rather than meeting max_len.
    sampler_log_pf: the sampler engine's own sum of log q over the content tokens, a
        diagnostic for on-policy samples; NaN where unknown.
    """

    query_id: str
    token_ids: IntArray
    tool_mask: BoolArray
    terminable: BoolArray
    policy_version: int
    proposal: Proposal
    temperature: float
    epsilon: float
    stopped: bool
    sampler_log_pf: float = float("nan")
    log_reward: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def final_log_reward(self) -> float:
        """Untempered log R of the whole z, in nats."""
        if self.log_reward is None:
            raise ValueError(f"trajectory of query {self.query_id!r} has not been scored yet")
        return float(self.log_reward[-1])

    def scored(self, log_reward: npt.ArrayLike) -> Trajectory:
        """The same trajectory with log R [T+1] attached; NaN exactly where not terminable."""
        rewards = np.asarray(log_reward, dtype=np.float32)
        if rewards.shape != self.terminable.shape:
            raise ValueError(
                f"log_reward has shape {rewards.shape}, expected {self.terminable.shape}: "
                "one entry per prefix, the empty one included"
            )
        if np.isnan(rewards[self.terminable]).any():
            raise ValueError(f"log_reward of query {self.query_id!r} is NaN at a terminable prefix")
        rewards = np.where(self.terminable, rewards, np.float32(np.nan))
        return Trajectory(**{**self.to_wire(), "log_reward": rewards})

    def to_wire(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @staticmethod
    def from_wire(wire: dict[str, Any]) -> Trajectory:
        return Trajectory(**wire)


@dataclass(frozen=True, eq=False)
class Support:
    """Which tokens are legal after a prefix. Part of the policy, so sampler and learner share it.

    content [V]: tokens z may contain. opening [V]: the subset legal as z_1. enders [V]:
    the subset after which z may stop, and the only tokens legal as z_max_len, so that
    no trajectory is a dead end. stop_ids: the terminator, as a set of tokens outside
    content. Stopping is legal from min_len tokens on, after an ender, and at once where
    min_len is 0; at max_len it is the only legal action, so log q(stop) = 0 there.
    """

    content: BoolArray
    opening: BoolArray
    enders: BoolArray
    stop_ids: IntArray
    min_len: int
    max_len: int

    # A legality row is chosen by three independent facts about the prefix, plus "closed".
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

    def may_stop(self, length: int, last_token: int | None) -> bool:
        """Whether a prefix of this length that ends in last_token may stop."""
        if length == 0:
            return self.min_len == 0
        return length >= self.min_len and last_token is not None and bool(self.enders[last_token])

    def mask_row(self, length: int, last_token: int | None) -> int:
        """Row of `masks` that rules the next token after a prefix."""
        if length >= self.max_len:
            return self.CLOSED
        row = self._FIRST if length == 0 else 0
        if length == self.max_len - 1:
            row |= self._LAST
        if self.may_stop(length, last_token):
            row |= self._STOP
        return row

    def mask_rows(self, token_ids: Sequence[int] | IntArray) -> IntArray:
        """Rows of `masks` [T+1] after each prefix of z."""
        tokens = [int(token) for token in token_ids]
        return np.array(
            [self.mask_row(t, tokens[t - 1] if t else None) for t in range(len(tokens) + 1)],
            dtype=np.int32,
        )

    def terminable(self, token_ids: Sequence[int] | IntArray) -> BoolArray:
        """Prefixes [T+1] that may stop."""
        tokens = [int(token) for token in token_ids]
        return np.array(
            [self.may_stop(t, tokens[t - 1] if t else None) for t in range(len(tokens) + 1)],
            dtype=np.bool_,
        )

    def contains(self, token_ids: Sequence[int] | IntArray) -> bool:
        """Whether the policy can produce exactly this z and then stop."""
        tokens = [int(token) for token in token_ids]
        if len(tokens) > self.max_len:
            return False
        rows = self.mask_rows(tokens)
        legal = all(self.masks[row, token] for row, token in zip(rows[:-1], tokens, strict=True))
        return legal and self.may_stop(len(tokens), tokens[-1] if tokens else None)

    def to_wire(self) -> dict[str, Any]:
        """A JSON-ready form: packed bits as base64, a few kilobytes for 50,000 tokens."""
        return {
            "vocab_size": self.vocab_size,
            **{name: _pack(getattr(self, name)) for name in ("content", "opening", "enders")},
            "stop_ids": [int(token) for token in self.stop_ids],
            "min_len": self.min_len,
            "max_len": self.max_len,
        }

    @staticmethod
    def from_wire(wire: dict[str, Any]) -> Support:
        size = wire["vocab_size"]
        return Support(
            content=_unpack(wire["content"], size),
            opening=_unpack(wire["opening"], size),
            enders=_unpack(wire["enders"], size),
            stop_ids=np.array(wire["stop_ids"], dtype=np.int32),
            min_len=wire["min_len"],
            max_len=wire["max_len"],
        )


def _pack(mask: BoolArray) -> str:
    return base64.b64encode(np.packbits(mask).tobytes()).decode("ascii")


def _unpack(text: str, size: int) -> BoolArray:
    bits = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    return np.unpackbits(bits, count=size).astype(np.bool_)
