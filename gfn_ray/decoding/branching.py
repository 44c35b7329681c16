"""Chain-of-thought decoding: the answer that a frozen LM is surest of, over different beginnings.

The first action that the support leaves open is the k likeliest in turn, every other the likeliest
one. A path's confidence is the margin, on average over the tokens of its answer, between what is
written and the likeliest other token of the LM without a support; margins of paths with the same
answer add up. Source: Wang and Zhou 2024, arXiv 2402.10200. A calculator's answer has the
LM's probability of it, and a negative margin where the LM would have written another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gfn_ray.decoding.sampling import one_by_one
from gfn_ray.decoding.writing import Choice, Written
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.support import Support
from gfn_ray.trajectory import IntArray


def by_rank(k: int) -> Choice:
    """Returns the choice that makes z number i take, where it first has one, the action of rank i
    modulo k, and everywhere else the likeliest."""
    branched: set[int] = set()

    def choose(log_probs: Tensor, asked: Sequence[int]) -> Tensor:
        ranked = log_probs.argsort(dim=-1, descending=True, stable=True)
        open_to = torch.isfinite(log_probs).sum(dim=-1).tolist()
        ranks = []
        for i, actions in zip(asked, open_to, strict=True):
            # A path beyond the last action is one again that there is already.
            ranks.append(i % k % actions if actions > 1 and i not in branched else 0)
            if actions > 1:
                branched.add(i)
        return ranked.gather(1, torch.tensor(ranks, device=ranked.device)[:, None])[:, 0]

    return choose


def branches(
    model: Any,
    support: Support,
    prompts: Sequence[IntArray],
    k: int,
    choose: Choice,
    tool: ToolLoop | None = None,
) -> list[list[Written]]:
    """The different paths of each prompt, at most k, by the likelihood of where they branch off.
    choose: `by_rank` of k."""
    found = []
    for paths in one_by_one(model, support, prompts, k, choose, tool):
        different: dict[tuple[int, ...], Written] = {}
        for one in paths:
            different.setdefault(tuple(one.tokens), one)
        found.append(list(different.values()))
    return found


def surest(
    model: Any, prompt: IntArray, paths: Sequence[Written], answer_after: Sequence[int]
) -> Written:
    """The most confident path to the answer with the largest sum of margins."""
    sums: dict[tuple[int, ...], float] = defaultdict(float)
    judged = []
    for path in paths:
        begins = 1 + max(
            (t for t, one in enumerate(path.tokens) if one in answer_after), default=-1
        )
        answer = tuple(path.tokens[begins:])
        confidence = float(margins(model, prompt, path.tokens)[begins:].mean())
        sums[answer] += confidence
        judged.append((answer, confidence, path))
    best = max(sums, key=lambda answer: sums[answer])
    return max((one for one in judged if one[0] == best), key=lambda one: one[1])[2]


@torch.no_grad()
def margins(model: Any, prompt: IntArray, tokens: Sequence[int]) -> npt.NDArray[np.float64]:
    """p of each token less the largest p of another [T], under the LM without a support."""
    device = next(model.parameters()).device
    ids = torch.tensor([[*prompt.tolist(), *tokens]], device=device)
    probs = torch.softmax(model(ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float(), -1)
    written = torch.tensor(tokens, device=device)[:, None]
    own = probs.gather(1, written)[:, 0]
    others = probs.scatter(1, written, -1.0).max(dim=-1).values
    found: npt.NDArray[np.float64] = (own - others).double().cpu().numpy()
    return found
