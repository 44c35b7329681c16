"""Samples of R^(1/T) from a frozen LM without training: sequential Monte Carlo.

Particles are z that the LM writes side by side. Where one could end, its weight becomes

    w = F(s) / q(s),   F(s) = R(s)^(1/T) / q(stop | s)

the flow that sub-trajectory balance trains, so that ending there changes no weight and a policy
which samples the posterior has equal ones. Between such places, and for a z that has ended, the
weight stays. When the effective number falls below half, particles are drawn anew by their weights
(Doucet et al. 2001; for language models Lew et al. 2023, arXiv 2306.03081). The mean weight,
multiplied over the rounds, estimates Z = sum of R^(1/T) without bias, however many particles there
are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gfn_ray.decoding.resampling import Weights
from gfn_ray.decoding.writing import Array, Choice, LogTarget, Writing, Written
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.support import Support
from gfn_ray.trajectory import IntArray

LEAST_EFFECTIVE = 0.5  # as a share of the particles


@dataclass(frozen=True)
class Population:
    """A prompt's particles at their ends. log_weights [K]. log_z: log of the estimate of Z."""

    particles: list[Written]
    log_weights: Array
    log_z: float


def particles(
    model: Any,
    support: Support,
    prompts: Sequence[IntArray],
    count: int,
    log_target: LogTarget,
    choose: Choice,
    rng: np.random.Generator,
    tool: ToolLoop | None = None,
) -> list[Population]:
    """`count` particles of each prompt. choose: draws from the LM, at temperature 1."""
    begun = [Written(owner) for owner in range(len(prompts)) for _ in range(count)]
    writing = Writing(model, support, prompts, begun, choose, tool)
    groups = [range(start, start + count) for start in range(0, len(begun), count)]
    log_weights, log_z = np.zeros(len(begun)), np.zeros(len(prompts))
    # Of each particle: log F of the latest beginning that could end, and how long that was.
    flows, lengths = np.zeros(len(begun)), np.full(len(begun), -1)

    def weigh() -> None:
        written = (i for i, one in enumerate(writing.found) if len(one) > lengths[i])
        new = [i for i in written if writing.may_stop(i)]
        if not new:
            return
        values = log_target([writing.found[i] for i in new])
        for i, value in zip(new, values, strict=True):
            flow = value - writing.log_stop(i)
            since = sum(writing.found[i].log_q[max(0, lengths[i]) :])
            log_weights[i] += flow - flows[i] - since
            flows[i], lengths[i] = flow, len(writing.found[i])

    def draw_anew(prompt: int, group: range) -> None:
        weights = Weights.of(log_weights[group])
        if weights.effective >= LEAST_EFFECTIVE * count or all(map(writing.is_at_end, group)):
            return
        ancestors = np.array(group)[weights.draw(count, rng)]
        writing.replace(group, ancestors.tolist())
        flows[group], lengths[group] = flows[ancestors], lengths[ancestors]
        log_z[prompt] += _log_mean_exp(log_weights[group])
        log_weights[group] = 0.0

    weigh()  # the empty z, where it could end
    while not writing.is_over:
        writing.step()
        weigh()
        for prompt, group in enumerate(groups):
            draw_anew(prompt, group)
    return [
        Population(
            [writing.found[i] for i in group],
            log_weights[group],
            float(log_z[prompt] + _log_mean_exp(log_weights[group])),
        )
        for prompt, group in enumerate(groups)
    ]


def _log_mean_exp(values: Array) -> float:
    return float(np.logaddexp.reduce(values) - np.log(len(values)))
