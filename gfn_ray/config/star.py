"""Settings of a run by STaR."""

from __future__ import annotations

from pydantic import Field

from gfn_ray.config.sections import Section


class STaRConfig(Section):
    rounds: int = Field(
        0,
        ge=0,
        description="Rounds of STaR, in place of updates by the objective: each samples z of the "
        "training problems and tunes the policy on the right ones, anew from where it started.",
    )
    samples: int = Field(4, ge=1, description="z sampled per training problem in a round.")
    steps: int = Field(
        40, ge=1, description="Likelihood updates in a round, each of sft.batch z at sft.lr."
    )
    rationalise: bool = Field(
        False,
        description="For problems without a right z, sample once more with the answer in the "
        "prompt; what is right then is learned without it.",
    )
