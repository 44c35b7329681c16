"""A batch of unfinished z under a causal LM, extended together one token at a time.

Renormalises log-probabilities under the support, as the policy's are. The caller, a decoder of the
frozen LM or the policy's sampler, decides which z grow by which token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gfn_ray.decoding.rows import CachedRows
from gfn_ray.errors import UserError
from gfn_ray.models.attention import agree
from gfn_ray.support import Support
from gfn_ray.trajectory import IntArray


class Frontier:
    """Rows of unfinished z; initially one empty z per prompt.

    An action is a content token or the end; all stop tokens together are the single action
    `stop`. log_probs [N, V]: of each row's actions, float32 in nats, -inf where
    illegal; NaN in rows whose next token is a tool's. tokens: z of each row so far.
    """

    def __init__(self, model: Any, support: Support, prompts: Sequence[IntArray]) -> None:
        """model: a transformers causal LM that fills a key-value cache."""
        self._support = support
        self._rows = CachedRows(model, prompts)
        device = self._rows.device
        self._illegal = torch.as_tensor(~support.masks, device=device)
        self.stops = torch.as_tensor(support.stop_ids, device=device).long()
        self.stop = int(support.stop_ids[0])
        self.tokens: list[list[int]] = [[] for _ in prompts]
        self._renormalise()

    def __len__(self) -> int:
        return len(self.tokens)

    def extend(self, parents: Sequence[int], tokens: Sequence[int]) -> None:
        """Makes row i the z of row parents[i] plus tokens[i]; a row may be extended repeatedly."""
        self._rows.extend(parents, tokens)
        self.tokens = [
            [*self.tokens[parent], token] for parent, token in zip(parents, tokens, strict=True)
        ]
        self._renormalise()

    def _renormalise(self) -> None:
        """Stores the distribution over the next action."""
        rows = [int(self._support.mask_rows(tokens)[-1]) for tokens in self.tokens]
        logits = self._rows.logits.masked_fill(self._illegal[rows], float("-inf"))
        log_probs = torch.log_softmax(logits, dim=-1)
        ends = torch.logsumexp(log_probs[:, self.stops], dim=-1)
        log_probs[:, self.stops] = float("-inf")
        log_probs[:, self.stop] = ends
        self.log_probs = log_probs


def check_cache(model: Any, support: Support) -> None:
    """Raises UserError if the model cannot be sampled with a cache; see `cache_fault`."""
    if (why := cache_fault(model, support)) is not None:
        raise UserError(
            f"{_name(model)} cannot be sampled with a key-value cache of transformers ({why}); set "
            "sampler.backend to vllm, or choose a model of another architecture"
        )


@torch.no_grad()
def cache_fault(model: Any, support: Support) -> str | None:
    """Returns how the model reads padded prompts and a cache differently from whole texts, or None:
    recurrent models keep another state, and some ignore padding. Tests two prompts of different
    length and one more token."""
    ids = np.flatnonzero(support.masks.any(axis=0)).astype(np.int32)
    prompts = [np.resize(ids, length) for length in (3, 6)]
    try:
        frontier = Frontier(model, support, prompts)
        found = [frontier.log_probs]
        tokens = frontier.log_probs.index_fill(1, frontier.stops, float("-inf")).argmax(dim=1)
        frontier.extend([0, 1], tokens.tolist())
        found.append(frontier.log_probs)
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    for step, log_probs in enumerate(found):
        for row, prompt in enumerate(prompts):
            text = [*prompt.tolist(), *frontier.tokens[row][:step]]
            whole = model(torch.as_tensor([text], device=log_probs.device), use_cache=False)
            logits = whole.logits[0, -1].float()
            legal = torch.isfinite(log_probs[row]).index_fill(0, frontier.stops, False)
            kind = whole.logits.dtype
            if legal.any() and not agree(log_probs[row][legal].to(kind), logits[legal].to(kind)):
                return "its log-probabilities differ from those of whole texts"
    return None


def _name(model: Any) -> str:
    base = getattr(model, "base_model", model)
    return type(getattr(base, "model", base)).__name__
