"""log R(z_1..t) = log p(z_1..t answer | context) under a frozen LM, at every terminable prefix.

Packs a reward batch: each distinct prefix once, with a copy of the answer below every
terminable one. The reward is untempered; the learner applies T_r.
Source: Hu et al. 2024, section 3.1 (infilling: p(x z y) with x, y fixed).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from gfn_ray.errors import UserError
from gfn_ray.packing.forward import tree_log_probs
from gfn_ray.packing.prefix_tree import ROOT, PrefixTree, shared_length
from gfn_ray.rewards.reward import Pair
from gfn_ray.trajectory import FloatArray, Trajectory


class LikelihoodReward:
    """Scores trajectories with a frozen causal LM. Stateless between calls."""

    def __init__(self, tokens_per_forward: int) -> None:
        self._budget = tokens_per_forward
        self._model: Any = None

    def load(self, load_model: Callable[[], Any]) -> None:
        """Loads the frozen LM."""
        self._model = load_model()

    @torch.no_grad()
    def score(self, pairs: Sequence[Pair]) -> list[Trajectory]:
        """Returns the trajectories in order, with log R [T+1] in nats.

        Raises UserError for a query without context, because p(z_1) needs a token before it.
        """
        for query, _ in pairs:
            if not len(query.context_ids):
                raise UserError(
                    f"query {query.query_id!r} has no context_ids, and the frozen LM needs a token "
                    "before z; give it the prompt's, or the tokenizer's first token of a text"
                )
        scored: list[Trajectory] = []
        for chunk in _chunks(pairs, self._budget):
            scored.extend(
                trajectory.scored(log_reward)
                for (_, trajectory), log_reward in zip(chunk, self._rewards(chunk), strict=True)
            )
        return scored

    def _rewards(self, chunk: Sequence[Pair]) -> list[FloatArray]:
        tree = PrefixTree()
        paths: list[list[int]] = []
        answers: list[dict[int, list[int]]] = []  # prefix length -> nodes of its answer copy
        for query, trajectory in chunk:
            root = tree.add_path(query.context_ids, ROOT)[-1]
            nodes = [root, *tree.add_path(trajectory.token_ids, root)]
            paths.append(nodes[1:])
            answers.append(
                {
                    int(t): tree.add_path(query.answer_ids, nodes[t])
                    for t in np.flatnonzero(trajectory.terminable)
                }
            )
        wanted = {node for path in paths for node in path}
        wanted.update(node for copies in answers for path in copies.values() for node in path)
        log_prob = tree_log_probs(self._model, tree, sorted(wanted)).log_prob
        values = log_prob.double().cpu().numpy()

        rewards = []
        for path, copies in zip(paths, answers, strict=True):
            prior = np.concatenate([[0.0], np.cumsum(values[path])])
            reward = np.full(len(path) + 1, np.nan)
            for t, answer in copies.items():
                reward[t] = prior[t] + values[answer].sum()
            rewards.append(reward.astype(np.float32))
        return rewards


def _chunks(pairs: Sequence[Pair], budget: int) -> Iterator[list[Pair]]:
    """Yields runs of pairs whose packed trees fit a token budget; at least one pair each.

    A context is counted once, and so is what it shares with the one before, such as
    few-shot examples.
    """
    chunk: list[Pair] = []
    contexts: set[str] = set()
    used = 0
    for query, trajectory in pairs:
        cost = len(trajectory) + int(trajectory.terminable.sum()) * len(query.answer_ids)
        context = query.context_ids
        if query.query_id in contexts:
            more = 0
        else:
            more = len(context) - (shared_length(chunk[-1][0].context_ids, context) if chunk else 0)
        if chunk and used + more + cost > budget:
            yield chunk
            chunk, contexts, used, more = [], set(), 0, len(context)
        chunk.append((query, trajectory))
        contexts.add(query.query_id)
        used += more + cost
    if chunk:
        yield chunk
