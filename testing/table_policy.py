"""A policy that is a table of logits, small enough to list every z with its probability."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from gfn_ray.objectives import FlowBatch, ObjectiveLoss


class TablePolicy:
    """z of 1 to `longest` of `tokens` tokens, one row of logits for each shorter prefix; a z of
    `longest` tokens must stop."""

    def __init__(self, tokens: int = 3, longest: int = 2, seed: int = 0) -> None:
        self.texts = [
            z for n in range(1, longest + 1) for z in itertools.product(range(tokens), repeat=n)
        ]
        states = [z for n in range(longest) for z in itertools.product(range(tokens), repeat=n)]
        number = {state: index for index, state in enumerate(states)}
        generator = torch.Generator().manual_seed(seed)
        self.logits = torch.randn(
            len(states), tokens + 1, generator=generator, dtype=torch.float64
        ).requires_grad_()
        self._legal = torch.ones(len(states), tokens + 1, dtype=torch.bool)
        self._legal[number[()], tokens] = False  # z is never empty
        lengths = torch.tensor([len(z) for z in self.texts])
        at = torch.arange(longest + 1)
        self.by_policy = at[1:] <= lengths[:, None]
        self.terminable = (at >= 1) & (at <= lengths[:, None])
        self._may_stop = self.terminable & (at < longest)
        self._state = torch.zeros(len(self.texts), longest + 1, dtype=torch.long)
        self._token = torch.zeros(len(self.texts), longest, dtype=torch.long)
        for row, z in enumerate(self.texts):
            self._token[row, : len(z)] = torch.tensor(z)
            for t in range(min(len(z) + 1, longest)):
                self._state[row, t] = number[z[:t]]

    def log_probs(self) -> tuple[Tensor, Tensor]:
        """log_pf [Z, T] and log_stop [Z, T+1] of every z."""
        table = torch.log_softmax(self.logits.masked_fill(~self._legal, -torch.inf), dim=1)
        log_pf = torch.where(self.by_policy, table[self._state[:, :-1], self._token], 0.0)
        log_stop = torch.where(self._may_stop, table[self._state, -1], 0.0)
        return log_pf, log_stop

    @property
    def log_q(self) -> Tensor:
        """Of every whole z [Z]."""
        log_pf, log_stop = self.log_probs()
        return log_pf.sum(dim=1) + log_stop.gather(1, self.by_policy.sum(dim=1)[:, None])[:, 0]

    def batch(self, rows: Tensor, log_reward: Tensor, temperature: float = 1.0) -> FlowBatch:
        """Some of its z, of one query, sampled by itself. log_reward [Z]: log R of every z."""
        log_pf, log_stop = (one[rows] for one in self.log_probs())
        lengths = self.by_policy.sum(dim=1)[rows]
        ends = torch.arange(log_stop.shape[1]) == lengths[:, None]
        return FlowBatch(
            log_pf,
            log_stop,
            torch.where(ends, log_reward[rows][:, None] / temperature, 0.0),
            self.terminable[rows],
            torch.zeros(len(rows), dtype=torch.long),
            self.by_policy[rows],
            temperature,
            log_pf_behavior=log_pf.detach(),
            log_stop_behavior=log_stop.gather(1, lengths[:, None])[:, 0].detach(),
        )


def train(
    policy: TablePolicy,
    reference: TablePolicy,
    loss: Callable[[FlowBatch], ObjectiveLoss],
    log_reward: Tensor,
    temperature: float = 1.0,
    *,
    proposal: Tensor | None = None,
    epochs: int = 1,
    rounds: int = 400,
    samples: int = 256,
) -> None:
    """Rounds of samples of the policy, or of a distribution [Z], and updates on them."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam([policy.logits], lr=0.05)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, rounds)
    p_pf, p_stop = (one.detach() for one in reference.log_probs())
    for _ in range(rounds):
        shares = policy.log_q.detach().exp() if proposal is None else proposal
        rows = torch.multinomial(shares, samples, replacement=True, generator=generator)
        sampled = policy.batch(rows, log_reward, temperature)
        for _ in range(epochs):
            now = policy.batch(rows, log_reward, temperature)
            batch = replace(
                now,
                log_pf_reference=p_pf[rows],
                log_stop_reference=p_stop[rows],
                log_pf_behavior=sampled.log_pf_behavior,
                log_stop_behavior=sampled.log_stop_behavior,
            )
            optimizer.zero_grad()
            loss(batch).loss.backward()
            optimizer.step()
        falling.step()


def total_variation(one: Tensor, other: Tensor) -> float:
    """Between two distributions [Z], given as logarithms up to a constant."""
    return float((one.softmax(0) - other.softmax(0)).abs().sum().detach() / 2)
