"""Settings of random numbers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gfn_ray.config.checks import check_template
from gfn_ray.config.job import JobConfig
from gfn_ray.config.sections import (
    EvalConfig,
    LearnerConfig,
    ReplayConfig,
    SamplerConfig,
    Section,
)

TargetKind = Literal["uniform", "binomial", "geometric", "poisson", "gaussian", "modes"]

# All are enumerated at every evaluation, and plotted as one bar each.
MOST_INTEGERS = 1000


class RandomNumberConfig(Section):
    """An integer from a known distribution, written in digits."""

    low: int = Field(0, description="Smallest integer.")
    high: int = Field(100, description="Largest integer, inclusive.")
    target: TargetKind = Field(
        "uniform", description="Distribution to sample from, truncated to low..high."
    )
    mean: float | None = Field(
        None, description="Mean before truncation, not for uniform and modes; default: by target."
    )
    std: float | None = Field(
        None,
        ge=0.1,
        description="Standard deviation of gaussian (default: range / 6), or of each of the five "
        "modes (range / 50).",
    )
    support: Literal["digits", "full"] = Field(
        "digits",
        description="Tokens the policy may write: those of the integers, ended by a full stop or "
        "line break; or all that stand for text, ended by end-of-sequence.",
    )
    prompt: str = Field(
        "The following is a random integer drawn {how} between {low} and {high}: ",
        description="Prompt of the policy; {how} is 'uniformly' or 'from a ... distribution'.",
    )
    floor: float | None = Field(
        None,
        lt=0,
        description="log R of any other text, where the likeliest integer has 0; with support full "
        "it is added to the frozen LM's log p(z). Default: -10 for digits, -5 for full.",
    )

    @property
    def floor_or_default(self) -> float:
        """In nats. With -10, some 1,000 other texts of digits get 0.05 % of the target's mass."""
        if self.floor is not None:
            return self.floor
        return -10.0 if self.support == "digits" else -5.0

    @model_validator(mode="after")
    def _consistent(self) -> RandomNumberConfig:
        if not self.low < self.high:
            raise ValueError(
                f"task.low ({self.low}) must be below task.high ({self.high}); change one"
            )
        if self.high - self.low >= MOST_INTEGERS:
            raise ValueError(
                f"task.low ({self.low}) to task.high ({self.high}) are more than {MOST_INTEGERS} "
                "integers, and each is enumerated; narrow the range"
            )
        check_template("task.prompt", self.prompt, ("how", "low", "high"))
        return self


class RandomNumberJob(JobConfig):
    """Random numbers: train the model to write integers from a given distribution."""

    steps: int = Field(150, ge=0, description="Learner updates by the objective.")
    task: RandomNumberConfig = Field(
        default_factory=RandomNumberConfig, description="The integers and their distribution."
    )
    sampler: SamplerConfig = Field(
        default_factory=lambda: SamplerConfig(trajectories_per_query=64, queries_per_call=1),
        description="Sampling.",
    )
    replay: ReplayConfig = Field(
        default_factory=lambda: ReplayConfig(
            per_query=2000,
            priority="uniform",
            recency=0.0,
            max_times_sampled=None,
            min_replay=256,
            samples_per_insert=3.0,
        ),
        description="The replay buffer.",
    )
    learner: LearnerConfig = Field(
        default_factory=lambda: LearnerConfig(
            queries_per_step=1, trajectories_per_query=64, lr=1e-3, lr_end=0.05
        ),
        description="The updates.",
    )
    eval: EvalConfig = Field(
        default_factory=lambda: EvalConfig(
            queries=1,
            samples=64,
            tempered_samples=32,
            # The k of this one query decides: with 64 weights it is too often high by chance.
            diagnostic_samples=128,
            shown=0,
            every=25,
        ),
        description="Evaluation of the policy.",
    )
