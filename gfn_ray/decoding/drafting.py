"""Lets the frozen LM write the drafts of simulated queries, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gfn_ray.decoding.rows import CachedRows
from gfn_ray.decoding.simulation import Drafted, SimulatedQuery, Simulation, Verdict
from gfn_ray.seeds import Seed, generator, number
from gfn_ray.trajectory import Query


@torch.no_grad()
def draft(
    model: Any, simulation: Simulation, queries: Sequence[Query], copies: int, seed: Seed
) -> Drafted:
    """Makes `copies` independent drafts of each query and returns its first in number that is kept.

    Every draft is carried to its end: the first in time would favour short texts.
    """
    rng = generator(seed)
    drawing = torch.Generator(next(model.parameters()).device)
    drawing.manual_seed(number(seed))
    drafts = [[simulation.draft(query, rng) for _ in range(copies)] for query in queries]
    flat = [one for of_query in drafts for one in of_query]
    log_p = np.zeros(len(flat))
    kept = np.zeros(len(flat), dtype=np.bool_)

    rows = CachedRows(model, [query.context_ids for query in queries])
    going = list(range(len(flat)))
    parents = [index // copies for index in going]  # all drafts begin on their context's one row
    while going:
        log_probs = torch.log_softmax(rows.logits[parents], dim=-1)
        chosen = torch.multinomial(log_probs.exp(), 1, generator=drawing)
        picked = log_probs.gather(1, chosen)[:, 0].double().cpu().numpy()
        tokens = chosen[:, 0].tolist()
        log_p[going] += picked
        verdicts = [flat[i].take(token) for i, token in zip(going, tokens, strict=True)]
        kept[going] = [verdict is Verdict.KEPT for verdict in verdicts]
        stays = [k for k, verdict in enumerate(verdicts) if verdict is Verdict.GOES_ON]
        if stays:
            rows.extend([parents[k] for k in stays], [tokens[k] for k in stays])
        going = [going[k] for k in stays]
        parents = list(range(len(going)))
    found: list[SimulatedQuery | None] = []
    for start in range(0, len(flat), copies):
        first = next((i for i in range(start, start + copies) if kept[i]), None)
        found.append(None if first is None else flat[first].simulated(float(log_p[first])))
    return Drafted(found, len(flat), int(kept.sum()))
