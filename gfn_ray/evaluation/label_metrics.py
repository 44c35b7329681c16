"""Two-label predictions: averaging over samples, prior correction, and quality.

Predictions are log p [.., 2] of labels 0 and 1, whose probabilities sum to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

BINS = 10


def model_average(log_probs: Array) -> Array:
    """Returns the log of the mean over samples of p(label | x, z) [2], from their logs [S, 2].

    Bayesian model averaging over z ~ q(z | x) (Hu et al. 2024, section 4.3).
    """
    averaged: Array = np.logaddexp.reduce(log_probs, axis=0) - np.log(len(log_probs))
    return averaged


def log_odds(log_probs: Sequence[Array]) -> Array:
    """Returns log p(1) - log p(0) [N] of predictions [N, 2]."""
    rows = np.asarray(log_probs, dtype=np.float64).reshape(-1, 2)
    odds: Array = rows[:, 1] - rows[:, 0]
    return odds


def halving_offset(odds: Array) -> float:
    """Returns the median log-odds [N]: the prior correction if labels are balanced."""
    return float(np.median(odds))


def content_free_offset(odds: Array) -> float:
    """Returns log-odds of the mean probability on content-free inputs [N] (Zhao et al. 2021)."""
    p = float(np.mean(probabilities(odds)))
    return float(np.log(p) - np.log1p(-p))


def probabilities(odds: Array) -> Array:
    """Returns p(1) [N], clipped to stay strictly between 0 and 1."""
    p: Array = np.exp(-np.logaddexp(0.0, -odds))
    return np.clip(p, 1e-300, 1 - 1e-16)


def label_quality(odds: Array, truth: Labels) -> dict[str, float]:
    """Measures log-odds [N] against labels [N] of 0 and 1; no auc if only one label occurs.

    accuracy: share of right labels, a tie being half right. log_loss: mean -log p(truth), nats.
    ece: `calibration_error`. auc: chance that a 1 has higher odds than a 0, ties counting half.
    """
    sign = np.where(truth == 1, odds, -odds)
    found = {
        "accuracy": float(np.mean(np.where(sign == 0, 0.5, sign > 0))),
        "log_loss": float(np.mean(np.logaddexp(0.0, -sign))),
        "ece": calibration_error(probabilities(odds), truth),
    }
    difference = np.subtract.outer(odds[truth == 1], odds[truth == 0])
    if difference.size:
        found["auc"] = float(np.mean(np.where(difference == 0, 0.5, difference > 0)))
    return found


def calibration_error(p: Array, truth: Labels) -> float:
    """Returns the expected calibration error of p(1) [N], ten equal bins (Guo et al. 2017).

    The mean over predictions of |accuracy - confidence| of their bin, with the predicted label's
    confidence. As in accuracy, a tie is half right.
    """
    confidence = np.maximum(p, 1 - p)
    right = np.where(p == 0.5, 0.5, (p > 0.5) == (truth == 1))
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    error = 0.0
    for one in np.unique(bins):
        inside = bins == one
        error += float(inside.mean() * abs(right[inside].mean() - confidence[inside].mean()))
    return error
