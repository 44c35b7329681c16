"""The sizes of a model that memory and pace depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gfn_ray.errors import UserError


@dataclass(frozen=True)
class Shape:
    """parameters: with embeddings and head. outside: those of embeddings and head. cache: numbers
    that a token keeps in the KV cache, over all layers. linear: outputs plus inputs of all linear
    layers of the body, of which LoRA has rank times as many numbers."""

    parameters: float
    outside: float
    layers: int
    hidden: int
    vocabulary: int
    heads: int
    cache: int
    linear: int


def shape_of(config: Any, layers: Mapping[str, tuple[int, int]]) -> Shape:
    """From a model's configuration and its linear layers (outputs, inputs) but the head."""
    hidden, depth, vocabulary = (
        int(getattr(config, name)) for name in ("hidden_size", "num_hidden_layers", "vocab_size")
    )
    heads = int(config.num_attention_heads)
    kv = int(getattr(config, "num_key_value_heads", None) or heads)
    width = int(getattr(config, "head_dim", None) or hidden // heads)
    tables = 1 if getattr(config, "tie_word_embeddings", False) else 2
    outside = tables * vocabulary * hidden
    body = sum(outputs * inputs for outputs, inputs in layers.values())
    return Shape(
        body + outside,
        outside,
        depth,
        hidden,
        vocabulary,
        heads,
        2 * depth * kv * width,
        sum(outputs + inputs for outputs, inputs in layers.values()),
    )


def _llama(
    layers: int, hidden: int, inner: int, heads: int, kv: int, vocabulary: int, tied: bool = False
) -> Shape:
    width = hidden // heads
    square, narrow = hidden * hidden, hidden * kv * width
    body = layers * (2 * square + 2 * narrow + 3 * hidden * inner)
    outside = (1 if tied else 2) * vocabulary * hidden
    linear = layers * (4 * hidden + 2 * (hidden + kv * width) + 3 * (hidden + inner))
    cache = 2 * layers * kv * width
    return Shape(body + outside, outside, layers, hidden, vocabulary, heads, cache, linear)


_GPT_J = Shape(
    6.05e9,
    2 * 50_400 * 4_096,
    28,
    4_096,
    50_400,
    16,
    2 * 28 * 4_096,
    28 * (8 * 4_096 + 2 * (4_096 + 16_384)),
)
KNOWN = {
    "135m": _llama(30, 576, 1536, 9, 3, 49_152, tied=True),
    "1b": _llama(24, 2048, 8192, 32, 32, 49_152, tied=True),
    "gptj-6b": _GPT_J,
    "8b": _llama(36, 4096, 12_288, 32, 8, 151_936),
    "70b": _llama(80, 8192, 28_672, 64, 8, 128_256),
}
"""Those of clusters/settings, by the names of its files."""


def known(name: str) -> Shape:
    if name not in KNOWN:
        raise UserError(f"plan.size got {name!r}; it takes {', '.join(KNOWN)}")
    return KNOWN[name]
