"""log R from another reward and a function of the text: posteriors under verifier times LM.

The verifier's log-weight is added at every terminable prefix, so the target is
p(z | query) in proportion to R_prior(z) exp(log_weight(query, text of z)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gfn_ray.errors import UserError
from gfn_ray.rewards.reward import Pair, Reward
from gfn_ray.trajectory import Query, Trajectory

LogWeight = Callable[[Query, str], float]

_LONGEST_SHOWN_TEXT = 80  # characters of a refused text in an error's one line


class VerifierReward:
    """A prior reward, weighted by what a function thinks of the text.

    A text may be made unlikely, never impossible: with log R = -inf it would be no node of the
    loss, and probability could hide there.
    """

    def __init__(self, prior: Reward, log_weight: LogWeight, tokenizer: Any) -> None:
        """log_weight: of a query and the text of a z, in nats, finite; called in the reward
        actors, so it is a function of a module (or of the script that is run)."""
        self._prior = prior
        self._log_weight = log_weight
        self._tokenizer = tokenizer

    def load(self, load_model: Callable[[], Any]) -> None:
        """Loads the prior."""
        self._prior.load(load_model)

    def score(self, pairs: Sequence[Pair]) -> list[Trajectory]:
        """The trajectories in order, with log R [T+1] in nats attached.

        Raises UserError where the verifier fails, or gives anything but a finite number.
        """
        scored = []
        for (query, _), trajectory in zip(pairs, self._prior.score(pairs), strict=True):
            if trajectory.log_reward is None:
                raise ValueError("the prior of a VerifierReward left log_reward unset")
            log_reward = trajectory.log_reward.astype(np.float64)
            for t in np.flatnonzero(trajectory.terminable):
                text = self._tokenizer.decode(trajectory.token_ids[:t])
                log_reward[t] += self._weigh(query, text)
            scored.append(trajectory.scored(log_reward))
        return scored

    def _weigh(self, query: Query, text: str) -> float:
        shown = repr(text[:_LONGEST_SHOWN_TEXT])
        try:
            weight = float(self._log_weight(query, text))
        except Exception as error:  # somebody else's code: whatever it raises is theirs to mend
            raise UserError(
                f"the verifier {_name(self._log_weight)} failed on the text {shown}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not math.isfinite(weight):
            raise UserError(
                f"the verifier {_name(self._log_weight)} gave {weight} for the text {shown}; it "
                "takes a finite log-weight in nats, such as -20 for a text that should be rare"
            )
        return weight


def _name(function: LogWeight) -> str:
    return getattr(function, "__name__", type(function).__name__)
