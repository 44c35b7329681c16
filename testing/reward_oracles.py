"""Losses on rewards by their definitions, one trajectory, action and pair at a time."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gfn_ray.objectives import FlowBatch

CLIP = 0.2
CASES: list[dict[str, Any]] = [
    *(
        {"kind": kind, "reward": reward}
        for kind in ("ppo", "rloo", "grpo", "dpo")
        for reward in ("matched", "task")
    ),
    {"kind": "dpo", "reward": "task", "pairs": "best_worst"},
    {"kind": "mle"},
    {"kind": "mle", "accept_from": 0.0},
]

each_reward_objective = pytest.mark.parametrize(
    "case", CASES, ids=lambda case: "-".join(map(str, case.values()))
)


class Whole:
    """One whole z: log q, log p_ref and the sampler's log q of its actions, and log R."""

    def __init__(self, batch: FlowBatch, row: int) -> None:
        end = int(batch.terminable[row].nonzero().max())
        tokens = [t for t in range(end) if batch.by_policy[row, t]]
        self.group = int(batch.group[row])
        self.q = [*(batch.log_pf[row, t] for t in tokens), batch.log_stop[row, end]]
        self.p = [
            *(batch.log_pf_reference[row, t] for t in tokens),
            batch.log_stop_reference[row, end],
        ]
        self.b = [*(batch.log_pf_behavior[row, t] for t in tokens), batch.log_stop_behavior[row]]
        self.log_reward = batch.temperature * batch.log_reward[row, end]


def reward_loss(
    batch: FlowBatch,
    kind: str,
    reward: str = "matched",
    pairs: str = "bradley_terry",
    accept_from: float = -math.inf,
) -> Tensor:
    """The definition of each loss."""
    beta, rows = batch.temperature, [Whole(batch, row) for row in range(len(batch.group))]
    if kind == "mle":
        kept = [z for z in rows if z.log_reward >= accept_from]
        return -sum(sum(z.q) for z in kept) / sum(len(z.q) for z in kept)
    r = [z.log_reward - (beta * sum(z.p) if reward == "matched" else 0) for z in rows]
    if kind == "dpo":
        return _preferences(rows, r, beta, pairs)
    total, divisor = torch.zeros((), dtype=torch.float64), 0
    for row, z in enumerate(rows):
        mates = [m for m, other in enumerate(rows) if other.group == z.group]
        if kind == "grpo":
            own = torch.stack([r[m] for m in mates])
            advantage = (r[row] - own.mean()) / (own.std() + 1e-4)
        else:
            with_kl = {m: r[m] - beta * (sum(rows[m].b) - sum(rows[m].p)) for m in mates}
            others = [with_kl[m] for m in mates if m != row]
            advantage = with_kl[row] - sum(others) / len(others)
        if kind == "rloo":
            total = total - _clipped(sum(z.q) - sum(z.b), advantage)
            divisor += 1
            continue
        for q, p, b in zip(z.q, z.p, z.b, strict=True):
            total = total - _clipped(q - b, advantage)
            if kind == "grpo":
                total = total + beta * (q - b).exp() * ((p - q).exp() - (p - q) - 1)
            divisor += 1
    return total / divisor


def _clipped(log_ratio: Tensor, advantage: Tensor) -> Tensor:
    ratio = log_ratio.exp()
    return min(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)


def _preferences(rows: list[Whole], r: list[Tensor], beta: float, pairs: str) -> Tensor:
    total, divisor = torch.zeros((), dtype=torch.float64), 0
    h = [beta * (sum(z.q) - sum(z.p)) for z in rows]
    for query in {z.group for z in rows}:
        own = [m for m, z in enumerate(rows) if z.group == query]
        if pairs == "best_worst":
            best, worst = max(own, key=lambda m: r[m]), min(own, key=lambda m: r[m])
            total, divisor = total - logsigmoid(h[best] - h[worst]), divisor + 1
            continue
        for one, other in itertools.combinations(own, 2):
            wins = torch.sigmoid(r[one] - r[other])
            total = total - wins * logsigmoid(h[one] - h[other])
            total = total - (1 - wins) * logsigmoid(h[other] - h[one])
            divisor += 1
    return total / divisor
