"""Sampling with transformers' own forward pass and a key-value cache, without vLLM.

For models on which vLLM supports no adapter, for machines without a vLLM build, and as the
reference that its engine is tested against. A prompt is processed once for all its samples in a
batch. Written for and tested on CPUs: a step waits for the device a few times.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from multiprocessing.process import BaseProcess

import torch
from torch import Tensor

from gfn_ray.config import PolicyConfig, SamplerConfig
from gfn_ray.decoding.frontier import check_cache
from gfn_ray.decoding.writing import Writing, Written
from gfn_ray.errors import RunFailed
from gfn_ray.models.loading import load_causal_lm
from gfn_ray.policy.adapter import Adapter, add_adapter, put_adapter
from gfn_ray.sampling.backend import NOTHING_LEGAL, SampleRequest
from gfn_ray.sampling.exploration import BehaviourPolicy
from gfn_ray.sampling.partial_sequence import PartialSequence
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.support import Support
from gfn_ray.trajectory import Trajectory


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
        begun = [Written(places[sequence.query.prompt_ids.tobytes()]) for sequence in sequences]

        def choose(log_probs: Tensor, asked: Sequence[int]) -> Tensor:
            plans = [(sequences[i].plan, len(writing.found[i])) for i in asked]
            return _choose(log_probs, plans)

        tool, texts = self._tool, list(prompts.values())
        writing = Writing(self._model, self.support, texts, begun, choose, tool)
        while not writing.is_over:
            self.steps += 1
            writing.step()
        self.tool_calls += writing.tool_calls
        self.tool_errors += writing.tool_errors
        for sequence, one in zip(sequences, writing.found, strict=True):
            sequence.token_ids, sequence.tool_mask = one.tokens, one.by_tool
            sequence.log_pf, sequence.log_stop = one.log_q, one.log_stop
            sequence.stopped = one.stopped


def _choose(log_probs: Tensor, plans: Sequence[tuple[BehaviourPolicy, int]]) -> Tensor:
    """Chooses an action for each row of log_probs [N, V] by its plan and position.

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
    return torch.searchsorted(below, drawn, right=True).minimum(last)[:, 0]
