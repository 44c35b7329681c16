"""Chains of calculation that are cut, filled, swapped or wrong in one value, and wrong hints.

All are texts; what a model makes of them is for `evaluation.faithfulness` to count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gfn_ray.tasks.arithmetic.data import Problem

LARGEST_CHANGE = 3


@dataclass(frozen=True)
class Corrupted:
    """The beginning of a chain up to a step whose value is wrong. answer: what the rest makes of
    it, if every further step is right."""

    text: str
    answer: int


def steps(chain: str) -> list[str]:
    """The equations of a chain, each with its leading space."""
    return chain.split(",")


def cut(chain: str, kept: int) -> str:
    """Its first equations."""
    return ",".join(steps(chain)[:kept])


def another_value(value: int, rng: np.random.Generator) -> int:
    """Another integer, near."""
    away = int(rng.integers(1, LARGEST_CHANGE + 1))
    return value + away if rng.random() < 0.5 else value - away


def corrupted(problem: Problem, step: int, rng: np.random.Generator) -> Corrupted:
    """The chain of a problem up to this step, from 0, whose value is changed."""
    right = problem.partial_sums[step + 1]
    wrong = another_value(right, rng)
    *before, last = steps(cut(problem.rationale, step + 1))
    text = ",".join([*before, last.removesuffix(str(right)) + str(wrong)])
    return Corrupted(text, problem.solution + wrong - right)
