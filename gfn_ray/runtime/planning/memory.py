"""Bytes that each actor needs on each of its GPUs, by formula."""

from __future__ import annotations

from dataclasses import dataclass

from gfn_ray.config import JobConfig
from gfn_ray.decoding.simulation import drafts_at_once
from gfn_ray.runtime.planning.hardware import OVERHEAD
from gfn_ray.runtime.planning.shapes import Shape

_HALF, _FULL = 2, 4  # bytes of a number in bfloat16 and float32
# Bytes a node, layer and hidden unit that an update keeps for its backward pass: 38 of a 7B shape
# in bfloat16, measured (docs/performance.md). With checkpoints, the layer's input alone.
_KEPT, _KEPT_AT_CHECKPOINTS = 38, _HALF
# A forward pass keeps one layer's.
_PASSING = 38
# A LoRA weight, its gradient and AdamW's two averages, in float32.
_TRAINED = 4 * _FULL
# Of 4 bits, 64 share a scale of one byte, and 256 of those one of four.
_QUANTISED = {"8bit": 1.0, "4bit": 0.5 + 1 / 64 + 4 / (64 * 256)}
_LOGIT_ROWS = 128  # of logits at a time, in float32, with their gradient
_DRAFT_COPIES = 3  # logits of a draft, their log-probs and probabilities


@dataclass(frozen=True)
class Need:
    """Bytes on one GPU. name: of the actor. parts: in words, largest matters."""

    name: str
    parts: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def _weight(config: JobConfig) -> float:
    """Bytes of a weight of the body in learner and reward."""
    quantization = config.model.quantization
    return _HALF if quantization is None else _QUANTISED[quantization]


def sampler(shape: Shape, config: JobConfig, context: int) -> Need:
    """context: tokens of a prompt and its z. Its cache must hold one full batch."""
    split = config.sampler.tensor_parallel
    cache = _HALF * shape.cache * context * config.sampler.max_batch
    parts = {
        "weights": _HALF * shape.parameters / split,
        "cache of a full batch": cache / split,
        "overhead": OVERHEAD,
    }
    return Need("a sampler", parts)


def reward(shape: Shape, config: JobConfig, context: int) -> Need:
    """On each of the GPUs that share the layers. context: tokens of a prompt, a z and an answer.
    Where those of simulated queries are written, before training, their cache is counted if it is
    larger than a forward's activations."""
    tokens, spread = config.reward.tokens_per_forward, config.reward.spread
    body = shape.parameters - shape.outside
    drafts = drafts_at_once(tokens) if config.eval.simulated_queries else 0
    activations = _PASSING * tokens * shape.hidden
    cache = _HALF * shape.cache * context * drafts / spread
    used = "one layer's activations" if activations >= cache else "cache of simulated queries"
    parts = {
        "weights": (_weight(config) * body + _HALF * shape.outside) / spread,
        used: max(activations, cache),
        "logits": _FULL * max(_LOGIT_ROWS, _DRAFT_COPIES * drafts) * shape.vocabulary,
        "overhead": OVERHEAD,
    }
    return Need("a reward actor", parts)


def learner(shape: Shape, config: JobConfig) -> Need:
    own, tokens = config.learner, config.learner.tokens_per_forward
    body = shape.parameters - shape.outside
    spread = config.learners if own.shard else 1
    kept = (
        _KEPT_AT_CHECKPOINTS * shape.layers + _KEPT
        if own.checkpoint_activations
        else (_KEPT * shape.layers)
    )
    weight = _weight(config)
    gathered = 2 * _HALF * body / shape.layers if spread > 1 else 0.0  # this layer and the next
    parts = {
        "weights": weight * body / spread + _HALF * shape.outside + gathered,
        "adapter and optimizer": _TRAINED * config.policy.lora_rank * shape.linear,
        "activations": kept * tokens * shape.hidden,
        "logits": 2 * _FULL * _LOGIT_ROWS * shape.vocabulary,
        "overhead": OVERHEAD,
    }
    return Need("a learner", parts)
