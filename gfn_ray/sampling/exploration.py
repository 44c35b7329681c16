"""How the trajectories of one group are proposed: on-policy, tempered, epsilon-uniform.

Exploration changes which z are proposed and never log q, so nothing here is masked or
weighted later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gfn_ray.config import EvalConfig, SamplerConfig
from gfn_ray.trajectory import Proposal


@dataclass(frozen=True)
class ProposalPlan:
    """How to sample one trajectory. temperature divides the logits; epsilon is the chance,
    at each token, of a uniform draw from the legal ones; seed makes it reproducible."""

    proposal: Proposal
    temperature: float
    epsilon: float
    seed: int


def on_policy_plan(count: int, rng: np.random.Generator) -> list[ProposalPlan]:
    """Plans for exact samples of q."""
    return [ProposalPlan("policy", 1.0, 0.0, _seed(rng)) for _ in range(count)]


def evaluation_plan(config: EvalConfig, rng: np.random.Generator) -> list[ProposalPlan]:
    """Plans for one held-out query: exact samples of q, then tempered ones."""
    return [
        *on_policy_plan(config.samples, rng),
        *(
            ProposalPlan("tempered", config.temperature, 0.0, _seed(rng))
            for _ in range(config.tempered_samples)
        ),
    ]


def exploration_plan(config: SamplerConfig, rng: np.random.Generator) -> list[ProposalPlan]:
    """Plans for one group: the configured shares, rounded, the rest on-policy."""
    count = config.trajectories_per_query
    tempered = round(config.tempered_fraction * count)
    noisy = min(round(config.epsilon_fraction * count), count - tempered)
    plans = on_policy_plan(count - tempered - noisy, rng)
    for _ in range(tempered):
        temperature = float(rng.uniform(config.temperature_low, config.temperature_high))
        plans.append(ProposalPlan("tempered", temperature, 0.0, _seed(rng)))
    for _ in range(noisy):
        plans.append(ProposalPlan("epsilon", 1.0, config.epsilon, _seed(rng)))
    return plans


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31 - 1))
