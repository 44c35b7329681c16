"""What n samples of one prompt say of a policy that has k attempts."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Chance that k of the samples, drawn without replacement, hold a correct one: the unbiased
    estimate of Chen et al. 2021, 1 - C(n - c, k) / C(n, k)."""
    if not 1 <= k <= samples:
        raise ValueError(f"k must be between 1 and {samples}, got {k}")
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def majority_at_k(answers: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
    """Share of the runs of k samples whose commonest answer is correct; answers that are as common
    count in equal parts. None: the sample gives no answer, and no vote."""
    groups = [slice(start, start + k) for start in range(0, len(answers) - k + 1, k)]
    return sum(_majority(answers[one], correct[one]) for one in groups) / len(groups)


def _majority(answers: Sequence[str | None], correct: Sequence[bool]) -> float:
    votes: dict[str, list[bool]] = {}
    for answer, is_correct in zip(answers, correct, strict=True):
        if answer is not None:
            votes.setdefault(answer, []).append(is_correct)
    if not votes:
        return 0.0
    most = max(map(len, votes.values()))
    # Samples of one answer may be judged differently, as by a reward on the working too.
    shares = [sum(found) / len(found) for found in votes.values() if len(found) == most]
    return sum(shares) / len(shares)
