"""Decoders that take one action at a time and never backtrack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gfn_ray.decoding.writing import Choice, Written, write
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.support import Support
from gfn_ray.trajectory import IntArray


def one_by_one(
    model: Any,
    support: Support,
    prompts: Sequence[IntArray],
    count: int,
    choose: Choice,
    tool: ToolLoop | None = None,
) -> list[list[Written]]:
    """Returns `count` z for each prompt, whose every action `choose` picks."""
    begun = [Written(owner) for owner in range(len(prompts)) for _ in range(count)]
    found = write(model, support, prompts, begun, choose, tool)
    return [found[start : start + count] for start in range(0, len(found), count)]


def likeliest(log_probs: Tensor, asked: Sequence[int]) -> Tensor:
    """Picks the likeliest action: greedy decoding."""
    return log_probs.argmax(dim=-1)


def drawn(temperature: float, top_p: float, generator: torch.Generator) -> Choice:
    """Returns a choice that draws at a temperature from the nucleus of mass top_p.

    The nucleus is that of the tempered distribution. Source: Holtzman et al. 2020.
    """

    def choose(log_probs: Tensor, asked: Sequence[int]) -> Tensor:
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
