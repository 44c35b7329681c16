"""GFlowNet fine-tuning by the book: what gfn_ray is measured against.

A plain, single-process reading of Hu et al. 2024 (section 3.3) with nothing shared and nothing
packed: z is written token by token with gradients on, the reward is one forward a prefix, the loss
a loop over sub-trajectories. Policy, support, target and objective are those of gfn_ray, so that
both can be held to the same numbers (tests/unit/test_textbook.py does).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gfn_ray.support import Support
from gfn_ray.trajectory import IntArray, Query


@dataclass(frozen=True)
class Rollout:
    """z of one query. token_ids [B, T]: 0 past the end. log_pf [B, T] and log_stop [B, T+1]: with
    gradients, 0 where there is nothing. terminable [B, T+1]. lengths [B]."""

    token_ids: Tensor
    log_pf: Tensor
    log_stop: Tensor
    terminable: Tensor
    lengths: Tensor


def roll_out(
    policy: Any,
    prompt_ids: IntArray,
    support: Support,
    count: int,
    generator: torch.Generator,
    forced: Sequence[Sequence[int]] | None = None,
) -> Rollout:
    """`count` on-policy z of one prompt, with a key-value cache.

    forced: z to write instead of drawn ones, for comparisons.
    """
    masks, stops = torch.from_numpy(support.masks), torch.from_numpy(support.stop_ids).long()
    cursors = [support.cursor() for _ in range(count)]
    alive = torch.ones(count, dtype=torch.bool)
    inputs, cache = torch.from_numpy(prompt_ids).long().repeat(count, 1), None
    tokens, written, log_pf, log_stop, terminable = [], [], [], [], []
    for step in range(support.max_len + 1):
        output = policy(input_ids=inputs, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        legal = masks[torch.tensor([cursor.row for cursor in cursors])]
        logits = output.logits[:, -1].float().masked_fill(~legal, torch.finfo(torch.float32).min)
        log_probs = logits.log_softmax(dim=-1)
        may_stop = alive & legal[:, stops].any(dim=1)
        log_stop.append(torch.where(may_stop, log_probs[:, stops].logsumexp(dim=1), 0.0))
        terminable.append(may_stop)
        if forced is None:
            drawn = torch.multinomial(log_probs.detach().exp(), 1, generator=generator)[:, 0]
        else:
            drawn = torch.tensor([z[step] if step < len(z) else int(stops[0]) for z in forced])
        alive = alive & ~torch.isin(drawn, stops)
        if not alive.any():
            break
        drawn = torch.where(alive, drawn, 0)
        log_pf.append(torch.where(alive, log_probs.gather(1, drawn[:, None])[:, 0], 0.0))
        tokens.append(drawn)
        written.append(alive)
        inputs = drawn[:, None]
        for cursor, token, own in zip(cursors, drawn.tolist(), alive.tolist(), strict=True):
            if own:  # what has ended goes on as padding, and its place in the support stays
                cursor.advance(token)
    return Rollout(
        torch.stack(tokens, dim=1),
        torch.stack(log_pf, dim=1),
        torch.stack(log_stop, dim=1),
        torch.stack(terminable, dim=1),
        torch.stack(written, dim=1).sum(dim=1),
    )


@torch.no_grad()
def log_reward(frozen: Any, query: Query, rollout: Rollout) -> Tensor:
    """Untempered log p(z_1..t answer | context) [B, T+1] at terminable prefixes, 0 elsewhere: a
    forward of the frozen LM for every length of prefix."""
    context = torch.from_numpy(query.context_ids).long()
    answer = torch.from_numpy(query.answer_ids).long()
    rewards = torch.zeros_like(rollout.log_stop)
    for length in range(rewards.shape[1]):
        rows = rollout.terminable[:, length].nonzero()[:, 0]
        if len(rows):
            texts = [torch.cat([context, z[:length], answer]) for z in rollout.token_ids[rows]]
            ids = torch.stack(texts)
            log_probs = frozen(input_ids=ids).logits[:, :-1].float().log_softmax(dim=-1)
            scored = log_probs.gather(2, ids[:, 1:, None])[:, len(context) - 1 :, 0]
            rewards[rows, length] = scored.sum(dim=1)
    return rewards


def subtb_loss(rollout: Rollout, rewards: Tensor) -> tuple[Tensor, int]:
    """The sum over all z and their sub-trajectories (i, j) of (u_i - u_j)^2, and how many there
    are; the root's flow is the mean of the batch. rewards: log R / T [B, T+1]."""
    path = torch.cat([torch.zeros(len(rewards), 1), rollout.log_pf.cumsum(dim=1)], dim=1)
    u = rewards - rollout.log_stop - path
    nodes_of = zip(u.detach(), rollout.terminable, strict=True)
    log_z = torch.stack([row[is_node].mean() for row, is_node in nodes_of]).mean()
    total, pairs = rewards.new_zeros(()), 0
    for row in range(len(u)):
        nodes = rollout.terminable[row].nonzero()[:, 0].tolist()
        for index, first in enumerate(nodes):
            total = total + (log_z - u[row, first]) ** 2
            pairs += 1
            for second in nodes[index + 1 :]:
                total = total + (u[row, first] - u[row, second]) ** 2
                pairs += 1
    return total, pairs


class Textbook:
    """Trains an adapter. policy: a model with one; frozen: the same model without, or whatever
    `score` reads. pace: the learning rate of an update (0-based) as a share of lr."""

    def __init__(
        self,
        policy: Any,
        frozen: Any,
        support: Support,
        *,
        lr: float,
        seed: int,
        pace: Callable[[int], float] = lambda _: 1.0,
        score: Callable[[Any, Query, Rollout], Tensor] = log_reward,
    ) -> None:
        self._policy, self._frozen, self._support, self._score = policy, frozen, support, score
        self._parameters = [p for p in policy.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=lr, weight_decay=0.0)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, pace)
        self._generator = torch.Generator().manual_seed(seed)

    def update(self, queries: Sequence[Query], per_query: int, temperature: float) -> list[int]:
        """One update on `per_query` fresh z of each query; their lengths."""
        self._optimizer.zero_grad()
        lengths: list[int] = []
        all_pairs = 0
        for query in queries:
            rollout = roll_out(
                self._policy, query.prompt_ids, self._support, per_query, self._generator
            )
            rewards = self._score(self._frozen, query, rollout) / temperature
            total, pairs = subtb_loss(rollout, rewards)
            total.backward()
            all_pairs += pairs
            lengths.extend(rollout.lengths.tolist())
        for parameter in self._parameters:
            parameter.grad /= all_pairs
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._schedule.step()
        return lengths
