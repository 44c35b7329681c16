"""What a served policy gives: samples, and answers that are averaged over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gfn_ray.decoding.resampling import Weights


@dataclass(frozen=True)
class Sample:
    """One z. token_ids: its tokens, those that a tool wrote included, without the stop. text: what
    they spell. stopped: it chose to stop, before max_len.

    log_q: log-probability in nats, under the policy and its support, of the whole z with its
    stop, as the engine computed it: in float32 on a CPU, bfloat16 on CUDA unless set otherwise.
    A tool's tokens are given and count nothing in it, nor does the stop that max_len forces.
    """

    text: str
    token_ids: tuple[int, ...]
    log_q: float
    stopped: bool


class Resampled(list[Sample]):
    """Samples that were drawn from more candidates by R / q.

    candidates: all that were sampled. effective_sample_size: of their weights. Far below the number
    asked for, the same candidate comes again and again: sample more.
    """

    def __init__(self, drawn: list[Sample], candidates: list[Sample], weights: Weights) -> None:
        super().__init__(drawn)
        self.candidates = candidates
        self.effective_sample_size = weights.effective


@dataclass(frozen=True)
class Prediction:
    """Answers averaged over the policy's samples.

    answers: (answer, weight), the heaviest first. A weight is the share of samples that give
    the answer: a Monte Carlo estimate of its posterior probability, sum over z of
    q(z | query) [z gives it], since z comes with the posterior's weights already. Its standard
    error is at most .5 / sqrt(n). Where a label model reads z, as after EM, a weight is the mean
    over samples of p(answer | query, z), under the run's correction for a prior. Weights and
    `unanswered`, the share of samples that give none, sum to 1. Where samples are weighed by R / q,
    shares are of those weights. effective_sample_size: of these, else the number of samples.
    """

    answers: list[tuple[str, float]]
    unanswered: float
    samples: list[Sample]
    effective_sample_size: float

    @staticmethod
    def of_votes(
        votes: Sequence[str | None], samples: list[Sample], weights: Weights
    ) -> Prediction:
        """votes [n]: the answer that each sample gives; None where it gives none."""
        shares: dict[str, float] = {}
        unanswered = 0.0
        for vote, weight in zip(votes, weights.normalised.tolist(), strict=True):
            if vote is None:
                unanswered += weight
            else:
                shares[vote] = shares.get(vote, 0.0) + weight
        answers = sorted(shares.items(), key=lambda pair: -pair[1])
        return Prediction(answers, unanswered, samples, weights.effective)
