"""Sampling with transformers' own forward pass and a key-value cache, without vLLM.

For models on which vLLM supports no adapter, for machines without a vLLM build, and as the
reference that its engine is tested against. A prompt is processed once for all its samples in a
batch. Written for and tested on CPUs: a step waits for the device a few times.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess

import numpy as np
import torch
from torch import Tensor

from gfn_ray.config import PolicyConfig, SamplerConfig
from gfn_ray.decoding.frontier import Frontier, check_cache
from gfn_ray.errors import RunFailed
from gfn_ray.models.loading import load_causal_lm
from gfn_ray.policy.adapter import Adapter, add_adapter, put_adapter
from gfn_ray.sampling.backend import NOTHING_LEGAL, SampleRequest
from gfn_ray.sampling.exploration import BehaviourPolicy
from gfn_ray.sampling.partial_sequence import PartialSequence
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.support import Support
from gfn_ray.trajectory import Trajectory


@dataclass
class _Row:
    """A z being written. by_tool: tokens that the tool still has to write."""

    sequence: PartialSequence
    by_tool: deque[int] = field(default_factory=deque)


class TransformersSampler:
    """A `SamplerBackend`. seed: of the adapter's initial weights, which are never sampled from."""

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
        check_cache(self._model, support)
        self.support = support
        self._max_batch = sampler.max_batch
        self._tool = tool
        self._triggers = set(tool.trigger_ids) if tool else set()
        self.steps = self.tool_calls = self.tool_errors = 0
        self.version = -1
        self.processes: list[BaseProcess] = []  # this one does it all

    def load(self, adapter: Adapter) -> None:
        """Makes an adapter live, unless it already is."""
        if adapter.version != self.version:
            put_adapter(self._model, adapter)
            self.version = adapter.version

    def sample(self, requests: Sequence[SampleRequest]) -> list[Trajectory]:
        """See `SamplerBackend`."""
        if self.version < 0:
            raise RuntimeError("sample() before load(): the sampler has no adapter yet")
        self.steps = self.tool_calls = self.tool_errors = 0
        sequences = [
            PartialSequence(request.query, plan) for request in requests for plan in request.plans
        ]
        for start in range(0, len(sequences), self._max_batch):
            self._write(sequences[start : start + self._max_batch])
        return [sequence.trajectory(self.support, self.version) for sequence in sequences]

    def close(self) -> None:
        """Frees the model."""
        del self._model

    def _write(self, sequences: list[PartialSequence]) -> None:
        """Writes these z to their ends, as one batch."""
        prompts = {
            sequence.query.prompt_ids.tobytes(): sequence.query.prompt_ids for sequence in sequences
        }
        places = {key: row for row, key in enumerate(prompts)}
        frontier = Frontier(self._model, self.support, list(prompts.values()))
        rows = [_Row(sequence) for sequence in sequences]
        parents = [places[sequence.query.prompt_ids.tobytes()] for sequence in sequences]
        while rows:
            self.steps += 1
            log_probs = frontier.log_probs[parents]
            tokens = self._next(rows, log_probs, frontier.stop)
            on = [i for i, row in enumerate(rows) if self._goes_on(row.sequence)]
            if not on:
                return
            frontier.extend([parents[i] for i in on], [tokens[i] for i in on])
            rows = [rows[i] for i in on]
            parents = list(range(len(rows)))

    def _goes_on(self, sequence: PartialSequence) -> bool:
        return not sequence.stopped and len(sequence.token_ids) < self.support.max_len

    def _next(self, rows: list[_Row], log_probs: Tensor, stop: int) -> list[int]:
        """Appends the next token to each z, or stops it. log_probs [N, V]: of actions."""
        asked = [i for i, row in enumerate(rows) if not row.by_tool]
        plans = [(rows[i].sequence.plan, len(rows[i].sequence.token_ids)) for i in asked]
        chosen, known = _choose(log_probs[asked], plans) if asked else ([], [])
        policys = dict(zip(asked, zip(chosen, known, strict=True), strict=True))
        tokens = []
        for i, row in enumerate(rows):
            if i in policys:
                token, log_prob = policys[i]
                self._acted(row, token, log_prob, stop)
            else:
                token = row.by_tool.popleft()
                row.sequence.append_by_tool([token])
            tokens.append(token)
        return tokens

    def _acted(self, row: _Row, token: int, log_prob: float, stop: int) -> None:
        """Records that the policy chose this token, or to stop."""
        sequence = row.sequence
        if token == stop:
            sequence.stopped, sequence.log_stop = True, log_prob
            return
        sequence.append([token], [log_prob])
        if self._tool is not None and token in self._triggers:
            z_ids = np.array(sequence.token_ids, dtype=np.int32)
            answer = self._tool.answer_ids(sequence.query.prompt_ids, z_ids)
            self.tool_calls += 1
            self.tool_errors += answer.failed
            row.by_tool.extend(answer.token_ids.tolist())


def _choose(
    log_probs: Tensor, plans: Sequence[tuple[BehaviourPolicy, int]]
) -> tuple[list[int], list[float]]:
    """Chooses an action for each row of log_probs [N, V] by its plan and position; returns log q.

    Seeded by plan and position: the same alone or in a batch. Raises RunFailed if nothing is legal
    or the model returned NaN.
    """
    if bool(torch.isnan(log_probs).any()):
        raise RunFailed(f"the model's log-probabilities are nan, or {NOTHING_LEGAL}")
    uniform, places = [], []
    for plan, position in plans:
        rng = random.Random(f"{plan.seed}/{position}")
        uniform.append(bool(plan.epsilon) and rng.random() < plan.epsilon)
        places.append(rng.random())
    device = log_probs.device
    temperatures = torch.tensor([plan.temperature for plan, _ in plans], device=device)
    weights = torch.softmax(log_probs.double() / temperatures[:, None], dim=-1)
    legal = torch.isfinite(log_probs)
    weights = torch.where(torch.tensor(uniform, device=device)[:, None], legal.double(), weights)
    below = weights.cumsum(dim=-1)
    drawn = torch.tensor(places, device=device, dtype=torch.float64)[:, None] * below[:, -1:]
    # Rounding may take the draw past the last legal token.
    last = (weights > 0).long().cumsum(dim=-1).argmax(dim=-1, keepdim=True)
    tokens = torch.searchsorted(below, drawn, right=True).minimum(last)
    return tokens[:, 0].tolist(), log_probs.gather(1, tokens)[:, 0].tolist()
