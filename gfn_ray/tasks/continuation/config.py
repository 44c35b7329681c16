"""Settings of sentence continuation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from gfn_ray.config.checks import check_lengths
from gfn_ray.config.data import DataConfig
from gfn_ray.config.job import JobConfig
from gfn_ray.config.sections import (
    EncoderConfig,
    EvalConfig,
    RewardConfig,
    Section,
)
from gfn_ray.decoding.decoder import Searching

BaselineKind = Literal["tempered", "nucleus", "beam", "diverse_beam", "greedy", Searching]


class PromptDataConfig(DataConfig):
    path: Path | None = Field(
        None,
        description="Text file with one prompt per line; default: the first two sentences of each "
        "embedded story.",
    )
    hub: str | None = Field(
        None,
        description="Hugging Face dataset id with prompts in a column 'text', instead of a file; "
        "data.columns renames another one.",
    )
    limit: int = Field(
        2000, ge=2, description="Most prompts taken, in order; the same limit for a test source."
    )

    @model_validator(mode="after")
    def _files_have_no_columns(self) -> PromptDataConfig:
        if self.columns is not None and self.hub is None:
            raise ValueError(
                f"data.columns ({', '.join(self.columns)}) needs data.hub: a file of prompts has "
                "one per line and no columns; leave it out"
            )
        return self


class ContinuationConfig(Section):
    """The sentence that follows a prompt."""

    min_len: int = Field(4, ge=1, description="Shortest z, in tokens.")
    max_len: int = Field(
        30, ge=1, description="Longest z, in tokens; only stopping is legal there."
    )
    baselines: tuple[BaselineKind, ...] | None = Field(
        ("tempered", "nucleus", "beam", "diverse_beam", "greedy"),
        description="Decoders of the frozen LM to compare with, eval.samples z per prompt each; "
        "best_of, resample, mh and smc use log R and write eval.candidates z for each.",
    )
    temperatures: tuple[float, ...] = Field(
        (0.6, 0.7, 0.8, 0.9), description="Temperatures of tempered sampling."
    )
    nucleus: float = Field(0.95, gt=0, lt=1, description="Mass kept by nucleus sampling.")
    diverse_groups: int | None = Field(
        None,
        ge=2,
        description="Groups of diverse beam search, a divisor of eval.samples. Default: "
        "eval.samples, one beam per group.",
    )
    diversity_penalty: float = Field(
        0.5,
        ge=0,
        description="Nats that diverse beam search takes off a token for each earlier group "
        "with that token at the same position.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> ContinuationConfig:
        check_lengths(self.min_len, self.max_len)
        # Both comparisons also refuse NaN.
        bad = [t for t in self.temperatures if not 0 < t <= 2]
        if bad or len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError(
                "task.temperatures takes distinct numbers above 0 and at most 2; "
                f"got {', '.join(map(str, self.temperatures))}"
            )
        return self


class ContinuationJob(JobConfig):
    """Sentence continuation: sample the next sentence z with p(z | prompt)^(1/T)."""

    steps: int = Field(60, ge=0, description="Learner updates by the objective.")
    task: ContinuationConfig = Field(
        default_factory=ContinuationConfig, description="The next sentence, and baselines."
    )
    data: PromptDataConfig = Field(
        default_factory=PromptDataConfig, description="Where prompts come from."
    )
    encoder: EncoderConfig = Field(
        default_factory=EncoderConfig, description="The encoder that measures diversity."
    )
    reward: RewardConfig = Field(
        default_factory=lambda: RewardConfig(
            temperature_start=1.0, temperature_end=0.9, temperature_steps=20
        ),
        description="The target.",
    )
    eval: EvalConfig = Field(
        default_factory=lambda: EvalConfig(queries=20, samples=8),
        description="Evaluation of the policy.",
    )

    @model_validator(mode="after")
    def _groups_divide(self) -> ContinuationJob:
        groups = self.task.diverse_groups
        if groups is not None and self.eval.samples % groups:
            raise ValueError(
                f"task.diverse_groups ({groups}) does not divide eval.samples "
                f"({self.eval.samples}); change one"
            )
        return self
