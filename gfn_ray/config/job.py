"""Settings of every job."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator, model_validator

from gfn_ray.config.checks import real_directory
from gfn_ray.config.objectives import ObjectiveConfig, SubTBConfig
from gfn_ray.config.sections import (
    CheckpointConfig,
    EvalConfig,
    LearnerConfig,
    ModelConfig,
    PolicyConfig,
    ProfileConfig,
    ReplayConfig,
    RewardConfig,
    RuntimeConfig,
    SamplerConfig,
    Section,
    SFTConfig,
    StopConfig,
    TrackingConfig,
)


class JobConfig(Section):
    """The settings that all jobs share; a task adds its own `task` section."""

    may_change: ClassVar[tuple[str, ...]] = (
        "resume",
        "steps",
        "tracking.uri",
        "checkpoint",
        "profile",
        "runtime",
    )
    """Settings and sections that --resume takes: they change no number computed before."""

    steps: int = Field(100, ge=0, description="Learner updates by the objective.")
    # 32 bits: vLLM passes it to NumPy's legacy generator.
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of every random choice.")
    samplers: int = Field(1, ge=1, description="Sampler actors.")
    reward_actors: int = Field(1, ge=1, description="Reward actors.")
    learners: int = Field(
        1,
        ge=1,
        description="Learner actors that share each update, a power of two; on a CPU in float32, "
        "with learner.threads the same, any number of them ends with the same policy.",
    )
    max_staleness: int = Field(
        8,
        ge=0,
        description="Adapter versions a trajectory may be behind when it reaches replay; "
        "0 is synchronous.",
    )
    run_dir: Path | None = Field(
        None, description="Directory of this run's outputs; default runs/<task>-<time>."
    )
    resume: Path | None = Field(
        None,
        description="Directory of an interrupted run to resume, under its own settings; only "
        "steps, tracking.uri, checkpoint, profile and runtime may change. auto: resume the run of "
        "run_dir, or start it if there is none.",
    )
    init_adapter: Path | None = Field(
        None,
        description="Adapter the policy starts from instead of a new one, such as a run's adapter/ "
        "or a checkpoint of it. With steps and sft.steps 0, the run only evaluates it.",
    )
    model: ModelConfig = Field(default_factory=ModelConfig, description="The base language model.")
    policy: PolicyConfig = Field(default_factory=PolicyConfig, description="The LoRA adapter.")
    sampler: SamplerConfig = Field(default_factory=SamplerConfig, description="Sampling.")
    reward: RewardConfig = Field(default_factory=RewardConfig, description="The target.")
    replay: ReplayConfig = Field(default_factory=ReplayConfig, description="The replay buffer.")
    sft: SFTConfig = Field(default_factory=SFTConfig, description="Supervised fine-tuning first.")
    objective: ObjectiveConfig = Field(default_factory=SubTBConfig, description="The loss.")
    learner: LearnerConfig = Field(default_factory=LearnerConfig, description="The updates.")
    eval: EvalConfig = Field(default_factory=EvalConfig, description="Evaluation of the policy.")
    stop: StopConfig = Field(default_factory=StopConfig, description="Early stopping.")
    tracking: TrackingConfig = Field(default_factory=TrackingConfig, description="MLflow.")
    checkpoint: CheckpointConfig = Field(
        default_factory=CheckpointConfig, description="What survives an interrupted run."
    )
    profile: ProfileConfig = Field(
        default_factory=ProfileConfig, description="Where the time goes."
    )
    runtime: RuntimeConfig = Field(default_factory=RuntimeConfig, description="Ray and devices.")

    @property
    def base_adapter(self) -> Path | None:
        """PEFT adapter to merge into the base model first, if the task has one."""
        return None

    def check_resumed(self, given: Collection[str]) -> None:
        """Raises UserError if a resumed run needs more than it was given. given: names of the
        settings that were named again."""

    @field_validator("init_adapter")
    @classmethod
    def _itself(cls, path: Path | None) -> Path | None:
        """Resolves a -latest link, which this run is about to move."""
        return real_directory(path)

    @model_validator(mode="after")
    def _consistent(self) -> JobConfig:
        learner, replay = self.learner, self.replay
        if self.learners & (self.learners - 1):
            raise ValueError(
                f"learners ({self.learners}) is not a power of two, and gradients are summed along "
                "a binary tree; use 1, 2, 4, 8, ..."
            )
        if learner.shard and self.learners == 1:
            raise ValueError(
                "learner.shard spreads the base model over the learners, and learners is 1; raise "
                "learners to 2, 4, ... or leave learner.shard off"
            )
        if learner.shard and self.model.quantization is not None:
            raise ValueError(
                f"learner.shard does not go with model.quantization ({self.model.quantization}), "
                "whose weights are not numbers that can be divided; leave one of them off"
            )
        if learner.shard and getattr(self.objective, "root_flow", None) == "learned":
            raise ValueError(
                "learner.shard does not go with objective.root_flow learned, which reads some "
                "prompts on one learner and not on another; use batch_mean, or leave shard off"
            )
        if replay.per_query < learner.trajectories_per_query:
            raise ValueError(
                f"replay.per_query ({replay.per_query}) is below learner.trajectories_per_query "
                f"({learner.trajectories_per_query}): no query could fill a group; raise the first"
            )
        if replay.capacity < replay.min_replay:
            raise ValueError(
                f"replay.capacity ({replay.capacity}) is below replay.min_replay "
                f"({replay.min_replay}): learning would never start; raise the first"
            )
        batch = learner.queries_per_step * learner.trajectories_per_query
        if replay.min_replay < batch:
            raise ValueError(
                f"replay.min_replay ({replay.min_replay}) is below one update's {batch} "
                "trajectories (learner.queries_per_step * learner.trajectories_per_query); raise it"
            )
        if self.stop.metric is not None and self.eval.every == 0:
            raise ValueError(
                f"stop.metric ({self.stop.metric}) is read at evaluations during training, and "
                "eval.every is 0, so there are none; set it to a number of updates"
            )
        if self.stop.metric is not None and self.eval.every >= self.steps:
            raise ValueError(
                f"stop.metric ({self.stop.metric}) is read at evaluations during training, the "
                f"first after eval.every ({self.eval.every}) updates, and the run ends after steps "
                f"({self.steps}); lower the first or raise the second"
            )
        if replay.max_times_sampled and replay.samples_per_insert > replay.max_times_sampled:
            raise ValueError(
                f"replay.samples_per_insert ({replay.samples_per_insert}) exceeds "
                f"replay.max_times_sampled ({replay.max_times_sampled}): replay would run dry; "
                "lower the first or raise the second"
            )
        return self
