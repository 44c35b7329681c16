"""labels/ in an adapter directory: the label model that an EM run tuned along with its policy.

Reads and writes its files, and averages its answers: the mean of p(label | x, z) over samples z of
the policy, under the run's prior correction.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gfn_ray.config import JobConfig
from gfn_ray.errors import UserError
from gfn_ray.evaluation.label_metrics import log_odds, model_average, probabilities
from gfn_ray.models.loading import load_causal_lm
from gfn_ray.paths import is_file
from gfn_ray.policy.adapter import Adapter, load_adapter, write_adapter
from gfn_ray.rewards.label_model import LabelModel
from gfn_ray.trajectory import IntArray

DIRECTORY = "labels"
FILE = "labels.toml"


@dataclass(frozen=True)
class TunedLabels:
    """names: of labels 0 and 1. offset: log-odds of label 1 that mean no preference."""

    adapter: Adapter
    names: tuple[str, str]
    offset: float


def write_labels(directory: Path, labels: TunedLabels) -> None:
    """Writes the label model into an adapter directory."""
    import tomli_w

    target = directory / DIRECTORY
    target.mkdir()
    write_adapter(labels.adapter, target)
    described = {"names": list(labels.names), "offset": labels.offset}
    (target / FILE).write_text(tomli_w.dumps(described), encoding="utf-8")


def read_labels(directory: Path) -> TunedLabels:
    """Reads an adapter directory's label model; raises UserError if it is missing or invalid."""
    file = directory / DIRECTORY / FILE
    if not is_file(file, "the label model"):
        raise UserError(
            f"the adapter {directory} has no label model ({DIRECTORY}/{FILE}), so there is nothing "
            "to average; give the adapter of a finished run, not of a checkpoint"
        )
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
        first, second = (str(name) for name in found["names"])
        offset = float(found["offset"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {error!r}; take a complete adapter") from None
    if not math.isfinite(offset):
        raise UserError(f"{file} has offset {offset}; it takes a finite number")
    return TunedLabels(load_adapter(directory / DIRECTORY), (first, second), offset)


class LabelAverage:
    """A label model in this process. answers: tokens of each label's answer, after z. model: the
    resolved base model."""

    def __init__(
        self,
        labels: TunedLabels,
        answers: Sequence[IntArray],
        model: str,
        device: str,
        config: JobConfig,
    ) -> None:
        self._names, self._offset, self._answers = labels.names, labels.offset, answers
        base = load_causal_lm(
            model, config.reward.precision, device, config.model.trust_remote_code
        )
        budget = config.reward.tokens_per_forward
        self._model = LabelModel(base, config.policy, config.seed, budget)
        self._model.take_over(labels.adapter)

    def predict(
        self, context: IntArray, samples: Sequence[Sequence[int]]
    ) -> list[tuple[str, float]]:
        """Returns (label, weight) by descending weight. context: tokens before z."""
        histories = [np.concatenate([context, np.array(z, dtype=np.int32)]) for z in samples]
        averaged = model_average(self._model.log_probs(histories, self._answers))
        second = float(probabilities(log_odds([averaged]) - self._offset)[0])
        weighted = list(zip(self._names, (1 - second, second), strict=True))
        return sorted(weighted, key=lambda one: -one[1])
