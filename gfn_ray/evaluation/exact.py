"""Distances of a policy from a target whose outcomes can all be enumerated.

Pure numpy, no sampling: both distributions are known on every outcome. The caller computes
log q with a model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]

TARGET_TOLERANCE = 1e-6  # a target is computed in float64; larger errors are not rounding
POLICY_TOLERANCE = 1e-4  # log q is summed from a float32 model's log-softmax over tokens


@dataclass(frozen=True, eq=False)
class ExactComparison:
    """A normalised target p and a policy q on the same N outcomes; logarithms in nats.

    target: what metrics call the target, as in kl_uniform_q.
    log_target [N]: log p, -inf where the target has no mass. log_q [N]: log q of the same
    outcomes. q may sum to less than 1: the rest, and the mass of q where p = 0, lies outside the
    target's support and is the policy's invalid mass. Both are renormalised within the
    tolerances above, q only if it exceeds 1, so that the bounds below are exact.
    """

    log_target: Array
    log_q: Array
    target: str = "target"

    @staticmethod
    def unnormalised(log_weights: Array, log_q: Array, target: str = "target") -> ExactComparison:
        """Makes one from log_weights [N], the target's log-probabilities up to a constant."""
        return ExactComparison(log_weights - np.logaddexp.reduce(log_weights), log_q, target)

    def __post_init__(self) -> None:
        log_p = np.asarray(self.log_target, dtype=np.float64)
        log_q = np.asarray(self.log_q, dtype=np.float64)
        if log_p.ndim != 1 or log_p.shape != log_q.shape or not len(log_p):
            raise ValueError(
                "target and policy need log-probabilities [N] of the same N >= 1 outcomes, "
                f"got shapes {log_p.shape} and {log_q.shape}"
            )
        target_sum, policy_sum = np.exp(log_p).sum(), np.exp(log_q).sum()
        # Negated comparisons, so that NaN is refused, too.
        if not abs(target_sum - 1) <= TARGET_TOLERANCE:
            raise ValueError(f"the target's probabilities sum to {target_sum}, not to 1")
        if not policy_sum <= 1 + POLICY_TOLERANCE:
            raise ValueError(
                f"the policy's probabilities sum to {policy_sum}, more than 1: outcomes overlap "
                "or log q is not normalised"
            )
        object.__setattr__(self, "log_target", log_p - np.log(target_sum))
        object.__setattr__(self, "log_q", log_q - np.log(max(policy_sum, 1.0)))

    @property
    def valid_mass(self) -> float:
        """sum of q over the target's support, in [0, 1]."""
        return min(1.0, float(np.exp(self._supported()[1]).sum()))

    @property
    def tv(self) -> float:
        """Total variation on the full space, in [0, 1]: (sum |p - q| + invalid mass) / 2."""
        log_p, log_q = self._supported()
        apart = np.abs(np.exp(log_p) - np.exp(log_q)).sum() + 1 - self.valid_mass
        return min(1.0, float(apart) / 2)

    @property
    def kl_target_q(self) -> float:
        """sum p (log p - log q) >= 0; inf if q misses an outcome of the support."""
        log_p, log_q = self._supported()
        return max(0.0, float(np.sum(np.exp(log_p) * (log_p - log_q))))

    @property
    def kl_q_target(self) -> float:
        """sum q' (log q' - log p) >= 0, with q' = q renormalised on the target's support.

        Without the renormalisation any invalid mass would make it infinite; read it next to
        valid_mass. inf for a policy without valid mass, which has no q'.
        """
        log_p, log_q = self._supported()
        seen = log_q > -np.inf
        if not seen.any():
            return float("inf")
        log_q, log_p = log_q[seen], log_p[seen]
        # Relative to the largest, because all valid mass may be too small for exp.
        log_q = log_q - log_q.max()
        log_q = log_q - np.log(np.exp(log_q).sum())
        return max(0.0, float(np.sum(np.exp(log_q) * (log_q - log_p))))

    def metrics(self) -> dict[str, float]:
        """Returns every distance by name."""
        return {
            "tv": self.tv,
            f"kl_{self.target}_q": self.kl_target_q,
            f"kl_q_{self.target}": self.kl_q_target,
            "valid_mass": self.valid_mass,
        }

    def extremes(self, count: int) -> tuple[IntArray, IntArray]:
        """Returns indices of the outcomes with the largest q/p > 1 and the smallest q/p < 1.

        At most `count` each, the most extreme first, ties by index. Outcomes outside the
        target's support have no ratio and are left out.
        """
        if count < 0:
            raise ValueError(f"count must be at least 0, got {count}")
        support = np.flatnonzero(self.log_target > -np.inf)
        log_ratio = self.log_q[support] - self.log_target[support]
        falling, rising = (np.argsort(r, kind="stable") for r in (-log_ratio, log_ratio))
        over = falling[log_ratio[falling] > 0][:count]
        under = rising[log_ratio[rising] < 0][:count]
        return support[over], support[under]

    def _supported(self) -> tuple[Array, Array]:
        """Returns log p and log q on the target's support."""
        support = self.log_target > -np.inf
        return self.log_target[support], self.log_q[support]
