"""Sampling by transformers' own forward pass with a key-value cache: every causal LM, no vLLM.

For models that vLLM has no adapter for, for machines that it has no build for, and as the plain
way that its engine is held to. A query's prompt is read once for all of its samples.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gfn_ray.config import PolicyConfig, SamplerConfig
from gfn_ray.decoding.frontier import Frontier
from gfn_ray.models.loading import load_causal_lm
from gfn_ray.policy.adapter import Adapter, add_adapter, put_adapter
from gfn_ray.sampling.backend import SampleRequest
from gfn_ray.sampling.draft import Draft
from gfn_ray.sampling.exploration import ProposalPlan
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.support import Support
from gfn_ray.trajectory import Trajectory


@dataclass
class _Row:
    """A z under way. by_tool: tokens that the tool still has to write."""

    draft: Draft
    by_tool: deque[int] = field(default_factory=deque)


class TransformersSampler:
    """A `SamplerBackend`. seed: of the adapter's weights until the first is loaded, which nobody
    samples from."""

    def __init__(
        self,
        model_path: str,
        support: Support,
        sampler: SamplerConfig,
        policy: PolicyConfig,
        *,
        device: str,
        seed: int,
        trust_remote_code: bool = False,
        tool: ToolLoop | None = None,
    ) -> None:
        dtype = sampler.dtype_on(device)
        base = load_causal_lm(model_path, dtype, device, trust_remote_code)
        self._model = add_adapter(base, policy, seed).eval()
        self.support = support
        self._max_batch = sampler.max_batch
        self._tool = tool
        self._triggers = set(tool.trigger_ids) if tool else set()
        self.tool_calls = self.tool_errors = 0
        self.version = -1

    def load(self, adapter: Adapter) -> None:
        """Makes an adapter live, unless it already is."""
        if adapter.version != self.version:
            put_adapter(self._model, adapter)
            self.version = adapter.version

    def sample(self, requests: Sequence[SampleRequest]) -> list[Trajectory]:
        """See `SamplerBackend`."""
        if self.version < 0:
            raise RuntimeError("sample() before load(): the sampler has no adapter yet")
        self.tool_calls = self.tool_errors = 0
        drafts = [Draft(request.query, plan) for request in requests for plan in request.plans]
        for start in range(0, len(drafts), self._max_batch):
            self._write(drafts[start : start + self._max_batch])
        return [draft.trajectory(self.support, self.version) for draft in drafts]

    def close(self) -> None:
        """Frees the model."""
        del self._model

    def _write(self, drafts: list[Draft]) -> None:
        """Writes these z to their ends, side by side."""
        queries = {draft.query.query_id: draft.query for draft in drafts}
        prompts = {query_id: row for row, query_id in enumerate(queries)}
        prompt_ids = [query.prompt_ids for query in queries.values()]
        frontier = Frontier(self._model, self.support, prompt_ids)
        rows = [_Row(draft) for draft in drafts]
        parents = [prompts[draft.query.query_id] for draft in drafts]
        while rows:
            tokens = [
                self._next(row, frontier.log_probs[parent], frontier.stop)
                for row, parent in zip(rows, parents, strict=True)
            ]
            on = [i for i, row in enumerate(rows) if self._goes_on(row.draft)]
            if not on:
                return
            frontier.extend([parents[i] for i in on], [tokens[i] for i in on])
            rows = [rows[i] for i in on]
            parents = list(range(len(rows)))

    def _goes_on(self, draft: Draft) -> bool:
        return not draft.stopped and len(draft.token_ids) < self.support.max_len

    def _next(self, row: _Row, log_probs: Tensor, stop: int) -> int:
        """Appends the next token of z, or stops it. log_probs [V]: of the policy's actions."""
        draft = row.draft
        if row.by_tool:
            token = row.by_tool.popleft()
            draft.append([token], by_tool=True)
            return token
        token = _choose(log_probs, draft.plan, len(draft.token_ids))
        log_prob = float(log_probs[token])
        if token == stop:
            draft.stopped, draft.log_stop = True, log_prob
            return token
        draft.append([token], by_tool=False)
        draft.log_pf += log_prob
        if self._tool is not None and token in self._triggers:
            z_ids = np.array(draft.token_ids, dtype=np.int32)
            answer = self._tool.answer_ids(draft.query.prompt_ids, z_ids)
            self.tool_calls += 1
            self.tool_errors += answer.failed
            row.by_tool.extend(answer.token_ids.tolist())
        return token


def _choose(log_probs: Tensor, plan: ProposalPlan, position: int) -> int:
    """One action by the plan. Seeded by plan and position: the same alone or among others."""
    rng = random.Random(f"{plan.seed}/{position}")
    if plan.epsilon and rng.random() < plan.epsilon:
        weights = torch.isfinite(log_probs).double()
    else:
        weights = torch.softmax(log_probs.double() / plan.temperature, dim=-1)
    below = weights.cumsum(dim=-1)
    drawn = int(torch.searchsorted(below, rng.random() * float(below[-1]), right=True))
    # Rounding may take the draw to the very end, where nothing is legal.
    return min(drawn, int(weights.nonzero()[-1]))
