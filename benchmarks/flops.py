"""The arithmetic of a Llama-like model with a LoRA: what a pass has to multiply and to read.

Counts matrix products, two operations for each multiplication, and no others: norms, activations
and softmax are below a hundredth. Pure functions of the model's shape and of what is passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """queries, keys: width of all heads together. rank: of a LoRA on all linear layers, or 0."""

    layers: int
    hidden: int
    queries: int
    keys: int
    inner: int
    vocab: int
    rank: int

    @staticmethod
    def of(config: Any, rank: int) -> Architecture:
        """Of a transformers configuration."""
        return Architecture(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
            config.intermediate_size,
            config.vocab_size,
            rank,
        )

    @property
    def from_input(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the linear layers that read a layer's input."""
        h = self.hidden
        return [(h, self.queries), (h, self.keys), (h, self.keys)]

    @property
    def linears(self) -> list[tuple[int, int]]:
        """Of all of a layer's."""
        h, i = self.hidden, self.inner
        return [*self.from_input, (self.queries, h), (h, i), (h, i), (i, h)]

    @property
    def weights(self) -> int:
        """Numbers that every token is multiplied with, without the LM head and the LoRA."""
        return self.layers * sum(a * b for a, b in self.linears)

    @property
    def adapter(self) -> int:
        """Numbers of the LoRA."""
        return self.layers * self.rank * sum(a + b for a, b in self.linears)

    @property
    def head(self) -> int:
        """Numbers of the LM head."""
        return self.hidden * self.vocab


@dataclass(frozen=True)
class Work:
    """One pass. tokens: that go through it. pairs: of a token and one that it sees, itself
    included. rows: of logits that are read. cached: tokens whose keys and values it only reads."""

    tokens: int
    pairs: int
    rows: int
    cached: int = 0


def forward(model: Architecture, work: Work) -> int:
    """Operations of one pass: two for each weight and token, in the head for each row."""
    attention = 4 * model.layers * model.queries * work.pairs  # with keys, and with values
    return _dense(model, work) + attention + 2 * model.adapter * work.tokens


def backward(model: Architecture, work: Work) -> int:
    """Operations of the gradient of a LoRA: through frozen weights once more; to the adapter's
    inputs and weights, and to attention's both factors, twice. Nothing below the first layer has
    a gradient, so none goes through what reads its input."""
    attention = 8 * model.layers * model.queries * work.pairs
    unneeded = sum(a * b + a * model.rank for a, b in model.from_input)
    return (
        _dense(model, work)
        + attention
        + 4 * model.adapter * work.tokens
        - 2 * unneeded * work.tokens
    )


def bytes_read(model: Architecture, work: Work, width: int) -> int:
    """By one pass: every weight once, and the keys and values of what is cached. width: bytes of
    a number."""
    weights = model.weights + model.adapter + (model.head if work.rows else 0)
    return width * (weights + 2 * model.layers * model.keys * work.cached)


def _dense(model: Architecture, work: Work) -> int:
    return 2 * (model.weights * work.tokens + model.head * work.rows)


def shared(paths: Iterable[tuple[Sequence[int], int]]) -> Work:
    """The pass over all paths in which equal prefixes are one. paths: tokens, and after how many
    of them logits are read from there on, to the last."""
    seen: set[tuple[int, ...]] = set()
    read: set[tuple[int, ...]] = set()
    for tokens, first in paths:
        prefixes = [tuple(tokens[:length]) for length in range(1, len(tokens) + 1)]
        seen.update(prefixes)
        read.update(prefixes[first - 1 :])
    return Work(len(seen), sum(map(len, seen)), len(read))


def decoded(groups: Sequence[tuple[int, Sequence[int]]], longest: int) -> list[Work]:
    """The passes of sampling: all prompts once, and then one a token of z, all z together.

    groups: of each query, the tokens of its prompt and of each z. The last of `longest` tokens is
    drawn and not read.
    """
    prompts = [prompt for prompt, _ in groups]
    works = [Work(sum(prompts), sum(p * (p + 1) // 2 for p in prompts), len(prompts))]
    for place in range(1, longest):
        resumed = [(p, sum(z >= place for z in lengths)) for p, lengths in groups]
        count = sum(number for _, number in resumed)
        if count:
            pairs = sum(number * (p + place) for p, number in resumed)
            cached = sum(p + number * (place - 1) for p, number in resumed if number)
            works.append(Work(count, pairs, count, cached))
    return works
