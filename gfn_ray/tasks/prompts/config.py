"""Settings of a task that is given by prompts and a reward function."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from gfn_ray.config.checks import absolute_path
from gfn_ray.config.data import DataConfig
from gfn_ray.config.job import JobConfig
from gfn_ray.config.objectives import ObjectiveConfig, VarGradConfig
from gfn_ray.config.sections import (
    LearnerConfig,
    SamplerConfig,
    Section,
)
from gfn_ray.decoding.decoder import Searching
from gfn_ray.errors import UserError, shown

BUILT_IN_REWARDS = ("exact", "regex", "contains", "contains_all", "math", "json")
GIVEN = "given:"
"""Before the name of a reward function that was handed over as a Python object."""
LONGEST_Z = 4096


class RowsConfig(DataConfig):
    path: Path | None = Field(
        None,
        description="JSON lines, CSV or Parquet with a column prompt: a text, or a list of chat "
        "messages. Default: the embedded sets of three words.",
    )
    test_path: Path | None = Field(
        None,
        description="File whose rows alone are tested on; default: every fifth prompt of "
        "data.path, by its text.",
    )
    hub: str | None = Field(
        None, description="Hugging Face dataset id with a column prompt, instead of a file."
    )
    columns: tuple[str, ...] | None = Field(
        None,
        description="Columns with other names than expected (prompt, answer, words, pattern, "
        "schema, demonstration), each as FOUND=EXPECTED, such as question=prompt.",
    )


class PromptsConfig(Section):
    """A completion z of a prompt x, by log R(z) = prior log p_ref(z | x) + r(z) / beta."""

    reward: tuple[str, ...] = Field(
        ("contains",),
        description="Reward functions: exact, regex, contains, contains_all, math, json, or a "
        "function of yours with TRL's signature, as file.py:function or package.module:function. "
        "Your file is run.",
    )
    reward_weights: tuple[float, ...] | None = Field(
        None, description="Weight of each of them in the sum r; default: 1 each."
    )
    reward_max: float | None = Field(
        None,
        description="Largest r there can be, if a function is yours: with it, exact draws of the "
        "posterior are made, and jeffreys is measured. Built-in rewards are at most 1 each.",
    )
    reward_timeout_s: float = Field(
        60.0,
        gt=0,
        description="Longest that a reward function of yours may take for a batch, and to be "
        "imported, in seconds.",
    )
    beta: float = Field(
        0.05,
        gt=0,
        description="What a nat of log p_ref costs in reward; the coefficient of the KL in "
        "KL-regularised RL. Less is greedier.",
    )
    prior: float = Field(
        1.0,
        ge=0,
        description="Weight of log p_ref, the frozen model's: 1 is the posterior under it, 0 the "
        "reward alone.",
    )
    floor: float | None = Field(
        None, description="Least r/beta, in nats; a reward below it counts as this."
    )
    length_prior: Literal["demonstrations", "none"] = Field(
        "none",
        description="Normal density of the demonstrations' lengths in tokens, as a term of log R.",
    )
    correct_from: float = Field(
        1.0, description="Reward r from which a sample counts as correct, as for pass@1."
    )
    baselines: tuple[Searching, ...] | None = Field(
        None,
        description="Ways to sample by the reward without training, from the frozen LM, to compare "
        "with; eval.candidates z are written for each that counts. Default: none.",
    )
    k: int | None = Field(
        None, ge=1, description="k of pass@k and majority@k; default: eval.samples."
    )
    answer_pattern: str | None = Field(
        None,
        description="Regular expression whose last match in a completion, or its first group, is "
        "the answer that majority@k and predict count. Default: with the reward math the final "
        "number, else the whole text.",
    )
    pattern: str | None = Field(
        None, description="The reward regex's pattern for rows without a column pattern."
    )
    json_schema: Path | None = Field(
        None, description="File with the reward json's schema for rows without a column schema."
    )
    system: str | None = Field(
        None, description="System message before each prompt; it makes chats of plain texts."
    )
    stop: tuple[str, ...] | None = Field(
        None,
        description="Strings that end z, which holds them; \\n stands for a line break. The end of "
        "text, or of the model's turn, always ends it. Default: a line break for the embedded "
        "prompts, nothing else for yours.",
    )
    max_len: int | None = Field(
        None,
        ge=1,
        le=LONGEST_Z,
        description="Longest z, in tokens; only stopping is legal there. Default: 24 for the "
        "embedded prompts, 256 for yours.",
    )

    @property
    def weights(self) -> tuple[float, ...]:
        return self.reward_weights or (1.0,) * len(self.reward)

    @property
    def largest(self) -> float | None:
        """A bound of r; None if there is none known."""
        if self.reward_max is None and self.runs_code:
            return None
        most = sum(max(0.0, weight) for weight in self.weights)
        return most if self.reward_max is None else self.reward_max

    @property
    def runs_code(self) -> bool:
        """Whether one of the reward functions is not built in."""
        return any(one not in BUILT_IN_REWARDS for one in self.reward)

    @field_validator("json_schema")
    @classmethod
    def _from_anywhere(cls, path: Path | None) -> Path | None:
        return absolute_path(path)

    @field_validator("reward")
    @classmethod
    def _spelled(cls, specs: tuple[str, ...]) -> tuple[str, ...]:
        """Files by their full path: actors may run in another directory."""
        found = []
        for spec in specs:
            place, _, name = spec.rpartition(":")
            if spec not in BUILT_IN_REWARDS and not (place and name.isidentifier()):
                raise ValueError(
                    f"task.reward got {shown(spec)}; it takes {', '.join(BUILT_IN_REWARDS)}, or a "
                    "function of yours as file.py:function or package.module:function"
                )
            found.append(f"{absolute_path(Path(place))}:{name}" if place.endswith(".py") else spec)
        return tuple(found)

    @field_validator("stop")
    @classmethod
    def _no_empty_stop(cls, stop: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if stop is not None and not all(stop):
            raise ValueError("task.stop has an empty string, at which every z would end")
        return stop

    @model_validator(mode="after")
    def _consistent(self) -> PromptsConfig:
        if len(self.weights) != len(self.reward):
            raise ValueError(
                f"task.reward_weights has {len(self.weights)} numbers and task.reward "
                f"{len(self.reward)} functions; give one each"
            )
        try:
            re.compile(self.answer_pattern or "")
            re.compile(self.pattern or "")
        except re.error as error:
            raise ValueError(
                f"task.answer_pattern and task.pattern take regular expressions: {error}"
            ) from None
        return self


class PromptsJob(JobConfig):
    """Your prompts, your reward: sample completions z with p_ref(z | x) exp(r(z) / beta)."""

    may_change: ClassVar[tuple[str, ...]] = (*JobConfig.may_change, "task.reward")

    steps: int = Field(80, ge=0, description="Learner updates by the objective.")
    task: PromptsConfig = Field(default_factory=PromptsConfig, description="The target.")
    data: RowsConfig = Field(default_factory=RowsConfig, description="Where prompts come from.")
    sampler: SamplerConfig = Field(
        default_factory=lambda: SamplerConfig(max_prompt_tokens=512), description="Proposals."
    )
    objective: ObjectiveConfig = Field(default_factory=VarGradConfig, description="The loss.")
    learner: LearnerConfig = Field(
        default_factory=lambda: LearnerConfig(queries_per_step=4, lr=1e-3, lr_end=0.1),
        description="The updates.",
    )

    def check_resumed(self, given: Collection[str]) -> None:
        """A run's directory may be a stranger's: code that its settings name is not run unless
        whoever resumes it names it too."""
        if self.task.runs_code and "task.reward" not in given:
            reward = ",".join(self.task.reward)
            raise UserError(
                f"the run to be resumed has a reward that is code, {reward}, and its settings "
                f"alone do not have it run; give it again, as --task.reward {reward}"
            )

    @property
    def embedded(self) -> bool:
        """Whether the prompts are the embedded ones."""
        return self.data.path is None and self.data.hub is None

    @property
    def stops(self) -> tuple[str, ...]:
        """task.stop, or its default, with line breaks and tabs."""
        given = self.task.stop
        if given is None:
            given = ("\n",) if self.embedded else ()
        return tuple(one.replace("\\n", "\n").replace("\\t", "\t") for one in given)

    @property
    def max_len(self) -> int:
        """task.max_len, or its default."""
        return self.task.max_len or (24 if self.embedded else 256)

    @model_validator(mode="after")
    def _whole_z(self) -> PromptsJob:
        kind, prior = self.objective.kind, self.task.prior
        if kind in ("subtb", "db"):
            raise ValueError(
                f"objective.kind {kind} compares prefixes of z, and a reward function judges "
                "whole completions alone; use vargrad or tb"
            )
        if self.objective.adds_reference and prior:
            raise ValueError(
                f"objective.kind {kind} adds log p_ref to log R, which has task.prior ({prior:g}) "
                "times it already; set task.prior to 0, or use vargrad, or objective.reward matched"
            )
        if (k := self.task.k) is not None and k > self.eval.samples:
            raise ValueError(
                f"task.k ({k}) exceeds eval.samples ({self.eval.samples}), of which it takes k; "
                "raise the second"
            )
        return self
