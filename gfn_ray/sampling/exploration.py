"""Behaviour policies of a group's trajectories: on-policy, tempered, epsilon-uniform.

Exploration changes which z are proposed but never log q, so nothing needs importance weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gfn_ray.config import EvalConfig, SamplerConfig
from gfn_ray.trajectory import Proposal


@dataclass(frozen=True)
class BehaviourPolicy:
    """How to sample one trajectory. temperature: divides the logits. epsilon: probability, at each
    token, of a uniform draw from the legal ones. seed: makes it reproducible."""

    proposal: Proposal
    temperature: float
    epsilon: float
    seed: int


def on_policy_behaviour(count: int, rng: np.random.Generator) -> list[BehaviourPolicy]:
    """Behaviour policies for exact samples of q."""
    return [BehaviourPolicy("policy", 1.0, 0.0, _seed(rng)) for _ in range(count)]


def evaluation_behaviour(config: EvalConfig, rng: np.random.Generator) -> list[BehaviourPolicy]:
    """Behaviour policies for one held-out query: exact samples of q, then tempered ones."""
    return [
        *on_policy_behaviour(config.samples, rng),
        *(
            BehaviourPolicy("tempered", config.temperature, 0.0, _seed(rng))
            for _ in range(config.tempered_samples)
        ),
    ]


def exploration_behaviours(
    config: SamplerConfig, groups: int, rng: np.random.Generator
) -> list[list[BehaviourPolicy]]:
    """Behaviour policies for the groups of one call: the configured shares, the rest on-policy.

    A share that is not a whole number of trajectories is rounded up in some groups and down in
    others (systematic sampling: equally spaced offsets from a random start), so that it holds on
    average for every group, and over a call to within a trajectory or two.
    """
    start = rng.random()
    offsets = [(start + group / groups) % 1.0 for group in range(groups)]
    return [_exploration_behaviour(config, offset, rng) for offset in offsets]


def _exploration_behaviour(
    config: SamplerConfig, offset: float, rng: np.random.Generator
) -> list[BehaviourPolicy]:
    """offset: in [0, 1), for rounding the shares; the same for both, so that together they never
    exceed the group."""
    count = config.trajectories_per_query
    tempered_share, both_shares = (
        share * count
        for share in (config.tempered_fraction, config.tempered_fraction + config.epsilon_fraction)
    )
    tempered = min(int(tempered_share + offset), count)
    noisy = min(int(both_shares + offset), count) - tempered
    plans = on_policy_behaviour(count - tempered - noisy, rng)
    for _ in range(tempered):
        temperature = float(rng.uniform(config.temperature_low, config.temperature_high))
        plans.append(BehaviourPolicy("tempered", temperature, 0.0, _seed(rng)))
    for _ in range(noisy):
        plans.append(BehaviourPolicy("epsilon", 1.0, config.epsilon, _seed(rng)))
    return plans


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31 - 1))
