"""The support and epsilon-exploration inside vLLM, as a logits processor.

Runs before vLLM divides by the temperature, on the same legality rows that the learner
masks with, so log q means the same on both sides. To stop is one action, whatever tokens spell
it: their probability is gathered on the first of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import (
    BatchUpdate,
    LogitsProcessor,
    MoveDirectionality,
)

from gfn_ray.support import Cursor, support_from_wire

CONFIG_KEY = "gfn_ray_support"
"""Entry of vLLM's additional_config that carries Support.to_wire()."""


@dataclass
class _Row:
    """One running request. output is vLLM's own list: it grows as tokens are sampled. seen: how
    many of them the cursor has passed."""

    output: list[int]
    cursor: Cursor
    seen: int
    epsilon: float
    seed: int


class SupportProcessor(LogitsProcessor):
    """Masks each row's logits to the tokens that are legal after its prefix."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._support = support_from_wire(vllm_config.additional_config[CONFIG_KEY])
        self._illegal = torch.as_tensor(~self._support.masks, device=device)
        self._stops = torch.as_tensor(self._support.stop_ids, device=device).long()
        self._rows: dict[int, _Row] = {}

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
            length = len(row.output)
            for token in row.output[row.seen :]:
                row.cursor.advance(token)
            row.seen = length
            kinds.append(row.cursor.row)
            # Seeded by request and position: the same alone, batched or re-issued.
            if row.epsilon and random.Random(f"{row.seed}/{length}").random() < row.epsilon:
                uniform.append(index)
        if uniform:
            logits[uniform] = 0.0
        logits.masked_fill_(self._illegal[kinds], float("-inf"))
        stop = torch.logsumexp(logits[:, self._stops], dim=1)
        logits[:, self._stops] = float("-inf")
        logits[:, self._stops[0]] = stop
        return logits

    def _row(self, params: SamplingParams, output: list[int]) -> _Row:
        extra = params.extra_args or {}
        epsilon, seed = float(extra.get("epsilon", 0.0)), int(extra.get("epsilon_seed", 0))
        return _Row(output, self._support.cursor(), 0, epsilon, seed)
