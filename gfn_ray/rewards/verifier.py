"""log R from another reward and a function of the text: posteriors under LM times verifier.

The verifier's log-weight is added at every terminable prefix, so the target is
p(z | query) in proportion to R_prior(z) exp(log_weight(query, text of z)).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gfn_ray.errors import UserError
from gfn_ray.rewards.adjusted import AdjustedReward, Array
from gfn_ray.rewards.reward import Reward
from gfn_ray.trajectory import Query, Trajectory

LogWeight = Callable[[Query, str], float]

_LONGEST_SHOWN_TEXT = 80  # characters of a text shown in an error


class VerifierReward(AdjustedReward):
    """A prior reward, weighted by a function of the text."""

    def __init__(self, prior: Reward, log_weight: LogWeight, tokenizer: Any) -> None:
        """log_weight: maps a query and the text of a z to finite nats; called in the reward
        actors, so it must be a function of a module (or of the script that is run)."""
        super().__init__(prior, [Verifier(log_weight, tokenizer)])


class Verifier:
    """A log-weight of texts as a term of log R (gfn_ray.rewards.adjusted.Term)."""

    def __init__(self, log_weight: LogWeight, tokenizer: Any) -> None:
        self._log_weight = log_weight
        self._tokenizer = tokenizer

    def __call__(self, query: Query, trajectory: Trajectory) -> Array:
        """Returns its value at terminable prefixes [T+1], 0 elsewhere.

        Raises UserError if the function fails or returns no number. NaN and infinity are passed
        on; such a trajectory cannot be learned from.
        """
        values = np.zeros(len(trajectory) + 1)
        for t in np.flatnonzero(trajectory.terminable):
            values[t] = self._weigh(query, self._tokenizer.decode(trajectory.token_ids[:t]))
        return values

    def _weigh(self, query: Query, text: str) -> float:
        shown = repr(text[:_LONGEST_SHOWN_TEXT])
        try:
            return float(self._log_weight(query, text))
        except Exception as error:  # user code may raise anything
            raise UserError(
                f"the verifier {_name(self._log_weight)} failed on the text {shown}: "
                f"{type(error).__name__}: {error}"
            ) from error


def _name(function: LogWeight) -> str:
    return getattr(function, "__name__", type(function).__name__)
