"""Runs a decoder and returns unscored trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gfn_ray.decoding.beam import beam_search
from gfn_ray.decoding.decoder import Decoder
from gfn_ray.decoding.sampling import drawn, likeliest, one_by_one
from gfn_ray.seeds import Seed, number
from gfn_ray.support import Support
from gfn_ray.trajectory import IntArray, Query, Trajectory


def decode(
    model: Any,
    support: Support,
    queries: Sequence[Query],
    decoder: Decoder,
    count: int,
    seed: Seed,
) -> list[Trajectory]:
    """Returns `count` z for each query, one for a greedy decoder, grouped by query.

    The LM reads the policy's prompt. Supports with tools are not supported. Only whole z are
    marked terminable, because a comparison scores no prefixes. seed: entropy of the random draws.
    """
    prompts = [query.prompt_ids for query in queries]
    if decoder.kind == "beam":
        found = beam_search(
            model, support, prompts, count, decoder.groups, decoder.diversity_penalty
        )
    elif decoder.kind == "greedy":
        found = one_by_one(model, support, prompts, 1, likeliest)
    else:
        generator = torch.Generator(next(model.parameters()).device)
        generator.manual_seed(number(seed))
        choose = drawn(decoder.temperature, decoder.top_p, generator)
        found = one_by_one(model, support, prompts, count, choose)
    return [
        _trajectory(query.query_id, np.array(tokens, dtype=np.int32), support)
        for query, texts in zip(queries, found, strict=True)
        for tokens in texts
    ]


def _trajectory(query_id: str, token_ids: IntArray, support: Support) -> Trajectory:
    terminable = np.zeros(len(token_ids) + 1, dtype=np.bool_)
    terminable[-1] = True
    return Trajectory.demonstration(
        query_id,
        token_ids,
        support.tool_mask(token_ids),
        terminable,
        stopped=len(token_ids) < support.max_len,
    )
