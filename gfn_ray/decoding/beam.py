"""Beam search, and diverse beam search: beams in groups that avoid each other's actions.

A finished z keeps its place in the beam as long as its score is among the best, so a beam
as wide as the language finds its likeliest z. Scores are sums of log p under the support,
not normalised by length. Source: Vijayakumar et al. 2018, "Diverse Beam Search",
Algorithm 1 with the Hamming diversity; the penalty stays in the score.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gfn_ray.decoding.frontier import Frontier
from gfn_ray.support import Support
from gfn_ray.trajectory import IntArray


@dataclass(frozen=True)
class _Hypothesis:
    """row: an unfinished z's row in the frontier; None once z is finished."""

    score: float
    tokens: list[int]
    row: int | None


@dataclass(frozen=True)
class _Candidate:
    """A hypothesis and its next action, which is None if it is finished."""

    score: float
    source: _Hypothesis
    action: int | None


def beam_search(
    model: Any,
    support: Support,
    prompts: Sequence[IntArray],
    count: int,
    groups: int = 1,
    penalty: float = 0.0,
) -> list[list[list[int]]]:
    """Returns the `count` z of each prompt in all beams, by group, the best of a group first.

    Returns fewer if the support has fewer. groups: beams of count / groups z each. penalty: nats
    taken off an action for each time that earlier groups took it at the same position.
    """
    if count % groups:
        raise ValueError(f"{count} hypotheses do not divide into {groups} groups")
    frontier = Frontier(model, support, prompts)
    beams = [
        [[_Hypothesis(0.0, [], prompt)] for _ in range(groups)] for prompt in range(len(prompts))
    ]
    while True:
        parents: list[int] = []
        actions: list[int] = []
        for of_prompt in beams:
            taken: Counter[int] = Counter()
            for group, beam in enumerate(of_prompt):
                best = _best(frontier, beam, count // groups, taken, penalty)
                taken.update(one.action for one in best if one.action is not None)
                of_prompt[group] = [_moved(one, frontier.stop, parents, actions) for one in best]
        if not parents:
            return [[one.tokens for beam in of_prompt for one in beam] for of_prompt in beams]
        frontier.extend(parents, actions)


def _best(
    frontier: Frontier,
    beam: Sequence[_Hypothesis],
    width: int,
    taken: Counter[int],
    penalty: float,
) -> list[_Candidate]:
    """Returns the `width` best of a beam's finished z and the continuations of the others."""
    found = [_Candidate(one.score, one, None) for one in beam if one.row is None]
    live = [one for one in beam if one.row is not None]
    if live:
        rows = frontier.log_probs[[one.row for one in live]]
        if penalty and taken:
            seen = torch.tensor(list(taken), device=rows.device)
            times = torch.tensor(list(taken.values()), device=rows.device, dtype=rows.dtype)
            rows[:, seen] -= penalty * times
        values, actions = rows.topk(min(width, rows.shape[1]), dim=-1)
        for one, row_values, row_actions in zip(
            live, values.tolist(), actions.tolist(), strict=True
        ):
            found.extend(
                _Candidate(one.score + value, one, action)
                for value, action in zip(row_values, row_actions, strict=True)
                if value > float("-inf")
            )
    return sorted(found, key=lambda one: -one.score)[:width]


def _moved(candidate: _Candidate, stop: int, parents: list[int], actions: list[int]) -> _Hypothesis:
    """Returns the hypothesis after its action, with a row of the next frontier if unfinished."""
    source = candidate.source
    if candidate.action is None:
        return source
    if candidate.action == stop:
        return _Hypothesis(candidate.score, source.tokens, None)
    assert source.row is not None  # a finished z has no action
    parents.append(source.row)
    actions.append(candidate.action)
    return _Hypothesis(candidate.score, [*source.tokens, candidate.action], len(parents) - 1)
