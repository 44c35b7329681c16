"""The support and epsilon-exploration inside vLLM, as a logits processor.

Runs before vLLM divides by the temperature and uses the same masks as the learner, so log q means
the same on both sides. Stopping is one action even if several tokens end z: their probability is
summed on the first of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import (
    BatchUpdate,
    LogitsProcessor,
    MoveDirectionality,
)

from gfn_ray.errors import RunFailed
from gfn_ray.sampling.backend import NOTHING_LEGAL
from gfn_ray.support import Cursor, Support


@dataclass(frozen=True)
class SupportConfig:
    """Passes the support to the processor, as vLLM's additional_config."""

    support: Support

    def compute_hash(self) -> str:
        """Hash of what vLLM's compiled code depends on: nothing here."""
        return ""


@dataclass
class _Row:
    """One running request. output: vLLM's own list, which grows as tokens are sampled. seen: tokens
    that the cursor has passed. before: tokens of z from earlier turns. ends: tokens that end the
    request. over: one of them was sampled."""

    output: list[int]
    cursor: Cursor
    before: int
    ends: frozenset[int]
    epsilon: float
    seed: int
    seen: int = 0
    over: bool = False

    def catch_up(self) -> None:
        """Moves the cursor past newly sampled tokens."""
        for token in self.output[self.seen :]:
            self.over = self.over or token in self.ends
            if not self.over:
                self.cursor.advance(token)
        self.seen = len(self.output)


class SupportProcessor(LogitsProcessor):
    """Masks each row's logits to the tokens that are legal after its prefix."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._support = vllm_config.additional_config.support
        # The extra row is for requests that are over: a scheduler that runs ahead asks for one more
        # token and discards it, and before a tool's answer none is legal.
        illegal = np.pad(~self._support.masks, ((0, 1), (0, 0)))
        # 0 where a token is legal, -inf elsewhere; 16 bits each, as a grammar has many rows.
        self._barrier = torch.zeros(illegal.shape, dtype=torch.float16, device=device)
        self._barrier[torch.as_tensor(illegal, device=device)] = float("-inf")
        self._over = len(illegal) - 1
        self._nothing_legal = set(np.flatnonzero(illegal.all(axis=1)).tolist())
        self._stops = torch.as_tensor(self._support.stop_ids, device=device).long()
        self._rows: dict[int, _Row] = {}
        self._pins = is_pin_memory
        self._kinds: list[int] = []
        self._index = torch.empty(0, dtype=torch.long, device=device)

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._rows.pop(index, None)
        for index, params, _, output in batch_update.added:
            self._rows[index] = self._row(params, output)
        for source, target, direction in batch_update.moved:
            moved = self._rows.pop(source, None)
            displaced = self._rows.pop(target, None)
            if moved is not None:
                self._rows[target] = moved
            if direction == MoveDirectionality.SWAP and displaced is not None:
                self._rows[source] = displaced

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        kinds, uniform = [], []
        for index in range(len(logits)):
            row = self._rows[index]
            row.catch_up()
            kind = self._over if row.over else row.cursor.row
            if kind in self._nothing_legal:
                raise RunFailed(NOTHING_LEGAL)
            kinds.append(kind)
            # Seeded by request and position: the same alone, in a batch or when repeated.
            position = row.before + len(row.output)
            if row.epsilon and random.Random(f"{row.seed}/{position}").random() < row.epsilon:
                uniform.append(index)
        if uniform:
            logits[uniform] = 0.0
        self._bar(logits, kinds)
        stop = torch.logsumexp(logits[:, self._stops], dim=1)
        if uniform:  # over actions; stopping is one of them
            stop[uniform] = stop[uniform].clamp(max=0.0)
        logits[:, self._stops] = float("-inf")
        logits[:, self._stops[0]] = stop
        return logits

    def _bar(self, logits: torch.Tensor, kinds: list[int]) -> None:
        """Sets the illegal logits of each row to -inf. kinds: the row of the support's masks."""
        if logits.is_cpu:  # gathering the rows would copy as much as the logits are
            for row, kind in zip(logits, kinds, strict=True):
                row.add_(self._barrier[kind])
            return
        if kinds != self._kinds:  # else the index on the device is still right
            index = torch.tensor(kinds, pin_memory=self._pins)
            self._index = index.to(logits.device, non_blocking=True)
            self._kinds = kinds
        logits.add_(self._barrier[self._index])

    def _row(self, params: SamplingParams, output: list[int]) -> _Row:
        extra = params.extra_args or {}
        cursor, before = self._support.cursor(), extra.get("z", [])
        for token in before:
            cursor.advance(token)
        return _Row(
            output,
            cursor,
            len(before),
            frozenset(params.stop_token_ids or ()),
            float(extra.get("epsilon", 0.0)),
            int(extra.get("epsilon_seed", 0)),
        )
