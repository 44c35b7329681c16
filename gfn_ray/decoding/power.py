"""Samples of R^(1/T) from a frozen LM without training: Metropolis-Hastings on suffixes.

A state is a whole z. A proposal cuts it at a place drawn uniformly from those at which the policy
chose, the end included, and has the LM write the rest anew. It is accepted with probability

    min(1, R(z')^(1/T) N(z) q(rest of z) / (R(z)^(1/T) N(z') q(rest of z')))

where N counts the places. Both ways use the same place, which the kept beginning has in common.
With R the LM's own likelihood this is power sampling (Karan and Du 2025, arXiv 2510.14901), which
goes through z block by block instead; here a z is short, and every cut is of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gfn_ray.decoding.writing import Choice, LogTarget, Written, write
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.support import Support
from gfn_ray.trajectory import IntArray


def power_samples(
    model: Any,
    support: Support,
    prompts: Sequence[IntArray],
    count: int,
    proposals: int,
    log_target: LogTarget,
    choose: Choice,
    rng: np.random.Generator,
    tool: ToolLoop | None = None,
) -> list[Written]:
    """The last states of `count` chains of each prompt, by prompt. proposals: z written for each
    chain, its first state included. choose: draws from the LM, at temperature 1."""
    begun = [Written(owner) for owner in range(len(prompts)) for _ in range(count)]
    states = write(model, support, prompts, begun, choose, tool)
    targets = log_target(states)
    for _ in range(proposals - 1):
        cuts = [int(rng.choice(one.choices)) for one in states]
        kept = [one.cut(at) for one, at in zip(states, cuts, strict=True)]
        proposed = write(model, support, prompts, kept, choose, tool)
        values = log_target(proposed)
        for i, (new, value, at) in enumerate(zip(proposed, values, cuts, strict=True)):
            if np.log(rng.random()) < value - targets[i] + log_proposals(states[i], new, at):
                states[i], targets[i] = new, value
    return states


def log_proposals(old: Written, new: Written, at: int) -> float:
    """log of the chance to propose `old` from `new` over that of `new` from `old`, cut there."""
    back = old.log_q_from(at) - np.log(len(new.choices))
    forth = new.log_q_from(at) - np.log(len(old.choices))
    return float(back - forth)
