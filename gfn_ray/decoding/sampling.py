"""Decoders that take one action at a time and never backtrack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gfn_ray.decoding.frontier import Frontier
from gfn_ray.support import Support
from gfn_ray.trajectory import IntArray

Choice = Callable[[Tensor], Tensor]
"""Maps log-probabilities of actions [N, V] to one action per row [N]."""


def one_by_one(
    model: Any, support: Support, prompts: Sequence[IntArray], count: int, choose: Choice
) -> list[list[list[int]]]:
    """Returns `count` z for each prompt, whose every action `choose` picks."""
    frontier = Frontier(model, support, prompts)
    found: list[list[list[int]]] = [[] for _ in prompts]
    # All copies of a prompt take their first action from its one row.
    owners = [prompt for prompt in range(len(prompts)) for _ in range(count)]
    rows = list(owners)
    while rows:
        actions = choose(frontier.log_probs[rows]).tolist()
        going = []
        for i, (row, action) in enumerate(zip(rows, actions, strict=True)):
            if action == frontier.stop:
                found[owners[i]].append(frontier.tokens[row])
            else:
                going.append(i)
        owners = [owners[i] for i in going]
        if going:
            frontier.extend([rows[i] for i in going], [actions[i] for i in going])
        rows = list(range(len(going)))
    return found


def likeliest(log_probs: Tensor) -> Tensor:
    """Picks the likeliest action: greedy decoding."""
    return log_probs.argmax(dim=-1)


def drawn(temperature: float, top_p: float, generator: torch.Generator) -> Choice:
    """Returns a choice that draws at a temperature from the nucleus of mass top_p.

    The nucleus is that of the tempered distribution. Source: Holtzman et al. 2020.
    """

    def choose(log_probs: Tensor) -> Tensor:
        probs = torch.softmax(log_probs / temperature, dim=-1)
        return torch.multinomial(nucleus(probs, top_p), 1, generator=generator)[:, 0]

    return choose


def nucleus(probs: Tensor, top_p: float) -> Tensor:
    """Returns probabilities [N, V], 0 outside the smallest set of mass at least top_p."""
    if top_p == 1:
        return probs
    ordered, order = probs.sort(dim=-1, descending=True)
    mass_before = ordered.cumsum(dim=-1) - ordered
    kept = torch.where(mass_before < top_p, ordered, 0.0)
    return torch.zeros_like(probs).scatter(-1, order, kept)
