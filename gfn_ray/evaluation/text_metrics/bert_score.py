"""BERTScore: how well the tokens of two texts match in meaning.

Source: Zhang et al. 2020, BERTScore, ICLR, section 3: greedy matching by cosine, here without
idf weights and without rescaling to a baseline, so that even unrelated texts score well above
zero. It depends on the encoder, which a report must name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.float32]


@dataclass(frozen=True)
class BertScore:
    """precision: mean, over the candidate's tokens, of the cosine to the nearest token of the
    reference. recall: the same over the reference's tokens. Each is at most 1."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 0 if one of them is not positive."""
        if min(self.precision, self.recall) <= 0:
            return 0.0
        return 2 * self.precision * self.recall / (self.precision + self.recall)


def bert_score(candidate: Tokens, reference: Tokens) -> BertScore:
    """Compares two texts by their token embeddings [T, D] and [U, D], each of length 1.

    A text without tokens matches nothing: both values are 0.
    """
    if not len(candidate) or not len(reference):
        return BertScore(0.0, 0.0)
    cosines = candidate.astype(np.float64) @ reference.astype(np.float64).T
    return BertScore(float(cosines.max(axis=1).mean()), float(cosines.max(axis=0).mean()))
