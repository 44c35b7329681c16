"""Simple properties of sampled texts: how many are distinct, and which copy a given text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rapidfuzz import fuzz

# Indel similarity, in percent, from which two sentences count as the same.
COPY_SIMILARITY = 85.0


def distinct_fraction(texts: Sequence[str]) -> float:
    """Returns the share of distinct texts among the samples of one query."""
    return len({_normal(text) for text in texts}) / len(texts)


def is_copy(text: str, given: Iterable[str]) -> bool:
    """Whether a text nearly repeats one of the given sentences."""
    return any(fuzz.ratio(_normal(text), _normal(other)) >= COPY_SIMILARITY for other in given)


def _normal(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .!?\"'")
