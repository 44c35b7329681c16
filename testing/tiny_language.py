"""A language small enough to list, a random Llama over its eight tokens, and the chi-square test
that holds what it wrote to a known distribution."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2
from transformers import LlamaConfig, LlamaForCausalLM

from gfn_ray.decoding.drafting import draft
from gfn_ray.decoding.simulation import SimulatedQuery, Simulation
from gfn_ray.seeds import Stream, seed_of
from gfn_ray.trajectory import IntArray, Query

Text = tuple[int, ...]

WORDS = ("<stop>", ".", "q", "a", "b", "x.", "y.", "z.")
STOP, FULL_STOP = 0, 1
CONTEXT = np.array([2, 3, 4], dtype=np.int32)
CHANCE = 1e-3  # of a right way to draw to fail; seeds are fixed
LEAST_EXPECTED = 5  # draws of a cell of the chi-square test
QUERIES, COPIES = 1000, 12  # of one call


def random_llama(vocab_size: int = len(WORDS)) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval().requires_grad_(False)


def log_p(model: Any, texts: Collection[Text]) -> dict[Text, float]:
    """log p of each text after the context."""
    return log_p_after(model, CONTEXT, texts)


@torch.no_grad()
def log_p_after(model: Any, context: IntArray, texts: Collection[Text]) -> dict[Text, float]:
    """log p of each text after a context, by one plain forward each length."""
    found: dict[Text, float] = {}
    for length, group in itertools.groupby(sorted(texts, key=len), key=len):
        some = list(group)
        ids = torch.tensor([[*context.tolist(), *text] for text in some])
        log_probs = torch.log_softmax(model(ids).logits.double(), dim=-1)
        read = log_probs[:, len(context) - 1 : -1].gather(2, ids[:, len(context) :, None])
        found |= dict(zip(some, read[..., 0].sum(dim=1).tolist(), strict=True))
        assert read.shape[1] == length
    return found


def normalised(log_weights: Mapping[Any, float]) -> dict[Any, float]:
    """Probabilities in proportion to exp of these."""
    values = np.array(list(log_weights.values()))
    return dict(zip(log_weights, np.exp(values - np.logaddexp.reduce(values)), strict=True))


def drawn(model: Any, simulation: Simulation, query: Query, calls: int = 2) -> list[SimulatedQuery]:
    """Simulated queries, from many copies of one query."""
    found: list[SimulatedQuery | None] = []
    for call in range(10, 10 + calls):
        seed = seed_of(Stream.SIMULATED, 0, call)
        found += draft(model, simulation, [query] * QUERIES, COPIES, seed).kept
    return [one for one in found if one is not None]


def p_value(counts: Counter[Any], expected: Mapping[Any, float]) -> float:
    """Pearson's chi-square; cells of few expected draws are one."""
    total = sum(counts.values())
    assert not counts.keys() - expected.keys()
    large = {cell: p * total for cell, p in expected.items() if p * total >= LEAST_EXPECTED}
    rest = total - sum(large.values())
    apart = sum((counts[cell] - mean) ** 2 / mean for cell, mean in large.items())
    left = total - sum(counts[cell] for cell in large)
    assert rest > LEAST_EXPECTED
    return float(chi2.sf(apart + (left - rest) ** 2 / rest, len(large)))
