"""Seconds that each call takes on a kind of GPU, by formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gfn_ray.config import JobConfig
from gfn_ray.runtime.planning.hardware import (
    DECODE_SHARE,
    DECODE_STEP,
    FORWARD_LAUNCH,
    FORWARD_SHARE,
    GPU,
    UPDATE_LAUNCH,
    UPDATE_SHARE,
)
from gfn_ray.runtime.planning.shapes import Shape

_BYTES = 2  # bfloat16
_BETWEEN = 0.01  # seconds from one call's end to the next one's beginning, through Ray


@dataclass(frozen=True)
class Lengths:
    """Tokens: of a query's prompt, of a z, and of what the reward appends to each scored prefix;
    prefixes: of a z that the reward scores."""

    prompt: int
    z: int
    answer: int
    prefixes: int


class FormulaDurations:
    """Every call of a kind takes the same, whichever it is. Checks of the engine, checkpoints and
    evaluations are left out: few, or as often as you ask, and the pace is that of the stages."""

    def __init__(self, config: JobConfig, shape: Shape, gpu: GPU, lengths: Lengths) -> None:
        self._config, self._shape, self._gpu, self._lengths = config, shape, gpu, lengths

    def sample(self, first: bool = False, step: int = 0) -> float:
        """One call, decoded in batches of at most max_batch; each step reads weights and cache."""
        shape, own, gpu, lengths = self._shape, self._config.sampler, self._gpu, self._lengths
        split = own.tensor_parallel
        left = own.queries_per_call * own.trajectories_per_query
        prompts = own.queries_per_call * lengths.prompt
        flops = gpu.flops * FORWARD_SHARE * split
        seconds = 2 * shape.parameters * prompts / flops
        while left > 0:
            batch = min(left, own.max_batch)
            left -= batch
            cache = shape.cache * batch * (lengths.prompt + lengths.z / 2)
            read = _BYTES * (shape.parameters + cache) / (gpu.bandwidth * DECODE_SHARE * split)
            computed = 2 * shape.parameters * batch / flops
            seconds += lengths.z * max(read, computed, DECODE_STEP)
        return seconds

    def score(self, first: bool = False, step: int = 0) -> float:
        """One call's trees, as many forwards as their nodes need."""
        own, lengths, shape = self._config.sampler, self._lengths, self._shape
        branch = lengths.z + lengths.prefixes * lengths.answer
        nodes = own.queries_per_call * (lengths.prompt + own.trajectories_per_query * branch)
        forwards = -(-nodes // self._config.reward.tokens_per_forward)
        computed = 2 * shape.parameters * nodes / (self._gpu.flops * FORWARD_SHARE)
        return max(computed, forwards * FORWARD_LAUNCH * shape.layers)

    def learn(self, first: bool = False, step: int = 0) -> float:
        """One update, its trees divided among the learners; with shards, each forward and backward
        gathers the weights of every layer."""
        own, lengths, shape = self._config.learner, self._lengths, self._shape
        nodes = own.queries_per_step * (lengths.prompt + own.trajectories_per_query * lengths.z)
        nodes = -(-nodes // self._config.learners)
        forwards = -(-nodes // own.tokens_per_forward)
        operations = 6 if own.checkpoint_activations else 4
        computed = operations * shape.parameters * nodes / (self._gpu.flops * UPDATE_SHARE)
        seconds = max(computed, forwards * UPDATE_LAUNCH * shape.layers)
        if own.shard:
            body = shape.parameters - shape.outside
            gathered = 2 * forwards * _BYTES * body / self._gpu.link
            seconds = max(seconds, gathered)
        return seconds

    def checks(self) -> Sequence[float]:
        return ()

    def checkpoint(self) -> float:
        return 0.0

    def evaluation(self) -> float:
        return 0.0

    def between(self) -> float:
        return _BETWEEN
