"""log R(z_1..t) = log p(z_1..t | x) + log p(y | x, z_1..t): a rationale z and a known label y.

The first term is the frozen LM's and never changes; the second is `LabelModel`'s, which an M-step
tunes. Both belong to one model of (z, y), so that E-step, M-step and prediction use the same
p(y | x, z). p(z | x) includes the common prefix of all answers, or no z would ever be too short.
Adds a floor under rationales outside the target, and a penalty. Source: Hu et al. 2024, section
4.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gfn_ray.config import PolicyConfig
from gfn_ray.rewards.label_model import Array, LabelModel
from gfn_ray.rewards.likelihood import LikelihoodReward
from gfn_ray.rewards.reward import Pair
from gfn_ray.trajectory import IntArray, Trajectory


class LabelledReward:
    """answers [L]: tokens after z for each label; a query's answer_ids are the true label's.

    outside: whether a prefix of z is outside the target. There `floor` replaces log p(y | x, z)
    for every y; it is finite, so that the prefix is a node of the loss and its probability is
    pushed down. penalty: nats taken off if the LM prefers another label than y. Neither the penalty
    nor the LM takes a prefix inside the target below the floor.
    """

    def __init__(
        self,
        answers: Sequence[IntArray],
        policy: PolicyConfig,
        seed: int,
        tokens_per_forward: int,
        *,
        outside: Callable[[IntArray], bool],
        floor: float,
        penalty: float = 0.0,
    ) -> None:
        self._answers = list(answers)
        self._shared = shared_prefix(answers)
        self._policy = policy
        self._seed = seed
        self._budget = tokens_per_forward
        self._outside = outside
        self._floor = floor
        self._penalty = penalty
        self._prior = LikelihoodReward(tokens_per_forward)
        self._labels: LabelModel | None = None

    def load(self, load_model: Callable[[], Any]) -> None:
        """Loads the frozen LM and adds the label adapter to it."""
        labels = self._labels = LabelModel(load_model(), self._policy, self._seed, self._budget)
        self._prior.load(lambda: labels.model)

    @property
    def labels(self) -> LabelModel:
        """The model of p(y | x, z), once loaded."""
        if self._labels is None:
            raise RuntimeError("the reward has no model yet; call load() first")
        return self._labels

    def score(self, pairs: Sequence[Pair]) -> list[Trajectory]:
        """Returns the trajectories in order, with log R [T+1] in nats."""
        return self.score_and_predict(pairs)[0]

    def score_and_predict(self, pairs: Sequence[Pair]) -> tuple[list[Trajectory], Array]:
        """Returns the same, and log p(label | x, z) [N, L] of each whole z."""
        log_prior = self.log_prior(pairs)
        ends = [np.flatnonzero(trajectory.terminable) for _, trajectory in pairs]
        histories = [
            np.concatenate([query.context_ids, trajectory.token_ids[:t]])
            for (query, trajectory), prefixes in zip(pairs, ends, strict=True)
            for t in prefixes
        ]
        log_labels = self.labels.log_probs(histories, self._answers)
        scored, predicted, row = [], [], 0
        for (query, trajectory), prior, prefixes in zip(pairs, log_prior, ends, strict=True):
            truth = self._label_of(query.answer_ids)
            log_reward = np.full(len(trajectory) + 1, np.nan)
            for t, log_p in zip(prefixes, log_labels[row : row + len(prefixes)], strict=True):
                wrong = self._penalty if log_p.argmax() != truth else 0.0
                outside = self._outside(trajectory.token_ids[:t])
                given = self._floor if outside else max(log_p[truth] - wrong, self._floor)
                log_reward[t] = prior[t] + given
            row += len(prefixes)
            predicted.append(log_labels[row - 1])
            scored.append(trajectory.scored(log_reward))
        return scored, np.array(predicted)

    def log_prior(self, pairs: Sequence[Pair]) -> list[Array]:
        """Returns log p(z_1..t, end | x) [T+1] of the frozen LM, NaN where z may not stop."""
        unlabelled = [(replace(query, answer_ids=self._shared), z) for query, z in pairs]
        with self.labels.frozen():
            scored = self._prior.score(unlabelled)
        return [np.asarray(one.log_reward, dtype=np.float64) for one in scored]

    def _label_of(self, answer_ids: IntArray) -> int:
        for label, answer in enumerate(self._answers):
            if np.array_equal(answer, answer_ids):
                return label
        raise ValueError("a query's answer_ids match none of the labels' answers")


def shared_prefix(answers: Sequence[IntArray]) -> IntArray:
    """Returns the common prefix of all answers."""
    length = 0
    for tokens in zip(*answers, strict=False):
        if len(set(map(int, tokens))) > 1:
            break
        length += 1
    return answers[0][:length]
