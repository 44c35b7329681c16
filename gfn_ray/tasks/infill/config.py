"""Settings of story infilling."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from gfn_ray.config.checks import check_end, check_lengths, check_template, real_directory
from gfn_ray.config.data import DataConfig
from gfn_ray.config.job import JobConfig
from gfn_ray.config.sections import (
    EncoderConfig,
    LearnerConfig,
    ReplayConfig,
    Section,
    SFTConfig,
)
from gfn_ray.config.tune_base import TextTuningConfig


class InfillConfig(Section):
    """The middle sentence of a story, given its beginning and its ending."""

    template: str = Field(
        "Ending: {ending}\nStory: {beginning}",
        description="Prompt of the policy; z continues it; {beginning} and {ending} are filled in.",
    )
    min_len: int = Field(4, ge=1, description="Shortest z, in tokens.")
    max_len: int = Field(
        20, ge=1, description="Longest z, in tokens; only stopping is legal there."
    )
    terminable: Literal["sentence", "every"] = Field(
        "sentence",
        description="Prefixes that may stop and have a reward: those that end a sentence, "
        "or all from min_len on.",
    )
    base_adapter: Path | None = Field(
        None,
        description="PEFT adapter to merge into the base model first, such as one made by "
        "jobs/tune_base.py: policy and frozen reward both start from the tuned model. Default: the "
        "one that tune_base makes.",
    )
    copy_penalty: float = Field(
        10.0,
        ge=0,
        description="Nats taken off log R of a z that nearly repeats a given sentence; 0: none.",
    )
    length_prior: Literal["training", "none"] = Field(
        "training",
        description="Factor on R for the length of z: training is a normal density in tokens, with "
        "mean and deviation of the training stories' true middles.",
    )

    @field_validator("base_adapter")
    @classmethod
    def _itself(cls, path: Path | None) -> Path | None:
        """Resolves a -latest link, which the next run moves: resuming and serving need the base
        that the run began with, from any working directory."""
        return real_directory(path)

    @model_validator(mode="after")
    def _consistent(self) -> InfillConfig:
        check_lengths(self.min_len, self.max_len)
        fields = ("beginning", "ending")
        check_template("task.template", self.template, fields, needed=fields)
        check_end("task.template", self.template, "z")
        return self


class InfillJob(JobConfig):
    """Story infilling: sample the missing sentence z with p(z | beginning, ending)."""

    steps: int = Field(60, ge=0, description="Learner updates by the objective.")
    task: InfillConfig = Field(default_factory=InfillConfig, description="Story infilling.")
    data: DataConfig = Field(default_factory=DataConfig, description="Where stories come from.")
    encoder: EncoderConfig = Field(
        default_factory=EncoderConfig, description="The encoder of text metrics."
    )

    tune_base: TextTuningConfig = Field(
        default_factory=TextTuningConfig,
        description="Tuning of the base model on the training stories, once, before the run.",
    )

    sft: SFTConfig = Field(
        default_factory=lambda: SFTConfig(steps=25), description="Supervised fine-tuning first."
    )
    replay: ReplayConfig = Field(
        default_factory=lambda: ReplayConfig(seed_demonstrations=True),
        description="The replay buffer.",
    )
    learner: LearnerConfig = Field(
        default_factory=lambda: LearnerConfig(lr_end=0.1), description="The updates."
    )

    @property
    def base_adapter(self) -> Path | None:
        return self.task.base_adapter

    @property
    def base_tuning(self) -> TextTuningConfig | None:
        wanted = self.task.base_adapter is None and self.tune_base.steps > 0
        return self.tune_base if wanted else None

    def on_base(self, adapter: Path) -> InfillJob:
        # Resolved like a given one, so that config.toml is read back to the same settings.
        task = self.task.model_copy(update={"base_adapter": real_directory(adapter)})
        return self.model_copy(update={"task": task})
