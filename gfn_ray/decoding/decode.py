"""Runs a decoder and returns unscored trajectories, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gfn_ray.decoding.beam import beam_search
from gfn_ray.decoding.branching import branches, by_rank, surest
from gfn_ray.decoding.decoder import Decoder
from gfn_ray.decoding.particles import particles
from gfn_ray.decoding.power import power_samples
from gfn_ray.decoding.resampling import Weights
from gfn_ray.decoding.sampling import drawn, likeliest, one_by_one
from gfn_ray.decoding.writing import Array, Choice, Written
from gfn_ray.errors import RunFailed
from gfn_ray.rewards.reward import Pair
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.seeds import Seed, generator, number
from gfn_ray.support import Support
from gfn_ray.trajectory import Query, Trajectory

Score = Callable[[Sequence[Pair]], list[Trajectory]]


@dataclass(frozen=True)
class Decoded:
    """trajectories: by query. tokens: chosen by the LM, stops included, whether or not the z they
    belong to is among these; None for beams, which share beginnings. scored: z and beginnings of z
    whose log R was asked for on the way."""

    trajectories: list[Trajectory]
    tokens: int | None
    scored: int


def decode(
    model: Any,
    support: Support,
    queries: Sequence[Query],
    decoder: Decoder,
    count: int,
    seed: Seed,
    *,
    tool: ToolLoop | None = None,
    score: Score | None = None,
    temperature: float = 1.0,
) -> Decoded:
    """Writes `count` z for each query, one for greedy and cot, grouped by query.

    Where the decoder selects among samples, all of them are returned. The LM reads the policy's
    prompt. Only whole z are marked terminable, because a comparison scores no prefixes. seed:
    entropy of the random draws. tool: of a support with one, under which there is no beam search.
    score: log R, which mh and smc need; they aim at R^(1/temperature).
    """
    prompts = [query.prompt_ids for query in queries]
    counted = _Counted(_choice(model, decoder, seed))
    scored = 0

    def log_target(texts: Sequence[Written]) -> Array:
        nonlocal scored
        scored += len(texts)
        assert score is not None
        pairs = [(queries[one.owner], one.trajectory(queries[one.owner], support)) for one in texts]
        values = np.array([one.final_log_reward for one in score(pairs)])
        if not np.isfinite(values).all():
            raise RunFailed(
                f"{decoder.name} needs a finite log R of every text that the frozen model writes, "
                f"and one is {values[~np.isfinite(values)][0]}"
            )
        return values / temperature

    rng = generator(seed)
    found: list[list[Written]]
    if decoder.kind == "beam":
        groups, penalty = decoder.groups, decoder.diversity_penalty
        beams = beam_search(model, support, prompts, count, groups, penalty)
        found = [[_of_beam(i, z, support) for z in beam] for i, beam in enumerate(beams)]
    elif decoder.kind == "cot":
        paths = branches(model, support, prompts, decoder.candidates, counted, tool)
        found = [
            [surest(model, prompt, of_prompt, decoder.answer_after)]
            for prompt, of_prompt in zip(prompts, paths, strict=True)
        ]
    elif decoder.kind == "mh":
        proposals = decoder.candidates
        chains = power_samples(
            model, support, prompts, count, proposals, log_target, counted, rng, tool
        )
        found = [chains[start : start + count] for start in range(0, len(chains), count)]
    elif decoder.kind == "smc":
        size = count * decoder.candidates
        populations = particles(model, support, prompts, size, log_target, counted, rng, tool)
        found = [
            [one.particles[i] for i in Weights.of(one.log_weights).draw(count, rng)]
            for one in populations
        ]
    else:
        each = {"greedy": 1, "sample": count}.get(decoder.kind, count * decoder.candidates)
        found = one_by_one(model, support, prompts, each, counted, tool)
    trajectories = [
        one.trajectory(query, support)
        for query, texts in zip(queries, found, strict=True)
        for one in texts
    ]
    return Decoded(trajectories, None if decoder.kind == "beam" else counted.tokens, scored)


class _Counted:
    """A choice that counts its tokens."""

    def __init__(self, choose: Choice) -> None:
        self._choose = choose
        self.tokens = 0

    def __call__(self, log_probs: Tensor, asked: Sequence[int]) -> Tensor:
        self.tokens += len(asked)
        return self._choose(log_probs, asked)


def _choice(model: Any, decoder: Decoder, seed: Seed) -> Choice:
    if decoder.kind == "cot":
        return by_rank(decoder.candidates)
    if decoder.kind in ("greedy", "beam"):
        return likeliest
    drawing = torch.Generator(next(model.parameters()).device)
    drawing.manual_seed(number(seed))
    return drawn(decoder.temperature, decoder.top_p, drawing)


def _of_beam(owner: int, tokens: list[int], support: Support) -> Written:
    """A z of which no log q is known."""
    unknown = [float("nan")] * len(tokens)
    by_tool = support.tool_mask(tokens).tolist()
    return Written(owner, tokens, by_tool, unknown, float("nan"))
