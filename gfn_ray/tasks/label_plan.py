"""What a task with labels adds to a run: EM, and classifiers to compare with.

EM alternates (Hu et al. 2024, section 4.3): the E-step trains q(z | x); the M-step tunes
p(y | x, z) on samples of q for the training queries, which changes the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from gfn_ray.config import EMConfig
from gfn_ray.trajectory import IntArray

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Classifier:
    """p(y | context) without any z, on the held-out queries.

    contexts: tokens read before the answer, by query id. answers [L]: tokens of each label's
    answer. examples: contexts with their labels to tune on first; none for the LM as it is.
    """

    name: str
    contexts: Mapping[str, IntArray]
    answers: list[IntArray]
    examples: list[tuple[IntArray, int]] = field(default_factory=list)


@dataclass(frozen=True)
class LabelPlan:
    """answers [L]: tokens after z for each label. truth: labels of training queries, by id.

    The task's reward has a `LabelModel` and scores with it, as `LabelledReward` does.
    """

    em: EMConfig
    answers: list[IntArray]
    truth: Mapping[str, int]
    classifiers: list[Classifier] = field(default_factory=list)


@runtime_checkable
class PredictsLabels(Protocol):
    """A task that has a `LabelPlan`. label_names: of labels 0 and 1."""

    label_names: tuple[str, str]

    def label_metrics(self, log_probs: Mapping[str, Array]) -> dict[str, float]:
        """Returns metrics of predictions: log p(label | ..) [S, L] by id of held-out query."""
        ...

    def label_offset(self, log_probs: Mapping[str, Array]) -> float:
        """Returns the log-odds of label 1 that mean no preference, from the same predictions."""
        ...

    def label_answers(self, tokenizer: Any) -> list[IntArray]:
        """Returns the tokens after z for each label [L], as in the plan."""
        ...

    def is_outside(self, token_ids: IntArray) -> bool:
        """Whether a z is outside the target, so that no M-step learns from it."""
        ...
