"""Settings of tool-augmented arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from gfn_ray.config.data import FileConfig
from gfn_ray.config.job import JobConfig
from gfn_ray.config.objectives import ObjectiveConfig, TBConfig
from gfn_ray.config.sections import (
    EvalConfig,
    LearnerConfig,
    ReplayConfig,
    SamplerConfig,
    Section,
    SFTConfig,
)
from gfn_ray.config.star import STaRConfig
from gfn_ray.decoding.decoder import Searching


class ArithmeticDataConfig(FileConfig):
    path: Path | None = Field(
        None,
        description="JSON list of {str_query, num_sol, str_rationale, str_sol}, the last two "
        "optional. Rows with str_rationale are demonstrations, others problems; if it has none of "
        "a kind, all of that kind are generated, as both are by default.",
    )
    test_path: Path | None = Field(
        None,
        description="File of the same format to test on, by task.eval_split test, instead of "
        "generated problems. Rows that are also in data.path are left out.",
    )


class ArithmeticConfig(Section):
    """Sums and differences of several integers, solved step by step."""

    demonstrations: int = Field(
        50, ge=0, description="Training problems with a known rationale; the first in data.path."
    )
    problems: int = Field(
        1000,
        ge=0,
        description="Training problems with only a known answer; the first in data.path.",
    )
    largest_operand: int = Field(
        9, ge=1, description="Operands of generated problems are drawn from 0 to this."
    )
    train_operands: tuple[int, ...] = Field(
        (3, 4), description="Numbers of operands in training problems."
    )
    eval_operands: tuple[int, ...] = Field(
        (3, 4, 5, 6),
        description="Numbers of operands in held-out problems, over which eval.queries are spread.",
    )
    eval_split: Literal["validation", "test"] = Field(
        "validation",
        description="Held-out problems to evaluate. Choices made on a split bias its results: make "
        "them all on validation, then look at test once.",
    )
    held_out: int = Field(
        200,
        ge=1,
        description="Generated held-out problems per split and number of operands.",
    )
    data_seed: int = Field(
        0,
        ge=0,
        description="Seed of the problems, so that runs of different seeds share them.",
    )
    calculator: bool = Field(
        True, description="Let a calculator write what follows '='; otherwise the policy does."
    )
    shots: int = Field(
        0, ge=0, description="Demonstrations in the policy's prompt: k-shot prompting."
    )
    reward_shots: int = Field(
        3, ge=0, description="Demonstrations before the question when the frozen LM scores z."
    )
    reward: Literal["likelihood", "right"] = Field(
        "likelihood",
        description="log R of a chain. likelihood: that of chain and answer under the frozen LM, "
        "less task.wrong_answer_penalty. right: 0 if it ends at the answer, else -1, for "
        "objectives that maximise a reward (objective.reward task).",
    )
    wrong_answer_penalty: float = Field(
        5.0,
        ge=0,
        description="Nats taken off log R of a chain that does not end at the answer, because the "
        "frozen LM alone favours short chains; 0 leaves the judgement to the LM, as in the paper.",
    )
    baselines: tuple[Literal[Searching, "cot"], ...] | None = Field(
        None,
        description="Ways to sample by log R without training, from the frozen LM, to compare with "
        "(eval.candidates z are written for each that counts), and cot, the answer it is surest of "
        "over so many beginnings. They read the policy's prompt: see task.shots. Default: none.",
    )
    max_equations: int = Field(8, ge=1, description="Most equations in z.")
    max_digits: int = Field(2, ge=1, le=9, description="Most digits of an operand in z.")

    @model_validator(mode="after")
    def _consistent(self) -> ArithmeticConfig:
        for name in ("train_operands", "eval_operands"):
            counts = getattr(self, name)
            if not counts or min(counts) < 2 or len(set(counts)) < len(counts):
                raise ValueError(f"task.{name} takes distinct numbers of 2 or more; got {counts}")
        if self.demonstrations + self.problems == 0:
            raise ValueError(
                "task.demonstrations and task.problems are both 0: there is nothing to train on; "
                "raise one"
            )
        longest = max(*self.train_operands, *self.eval_operands)
        largest = self.largest_operand * (longest - 1)
        if len(str(largest)) > self.max_digits:
            raise ValueError(
                f"task.max_digits ({self.max_digits}) is too low for {longest} operands up to "
                f"task.largest_operand ({self.largest_operand}), whose sums reach {largest} before "
                "the last step; raise the first"
            )
        if longest - 1 > self.max_equations:
            raise ValueError(
                f"task.max_equations ({self.max_equations}) is too low for {longest} operands, "
                f"which take {longest - 1}; raise it"
            )
        # One more than are shown, because a demonstration is not shown before itself.
        shown = max(self.shots, self.reward_shots)
        if shown and shown >= self.demonstrations:
            raise ValueError(
                f"task.shots ({self.shots}) and task.reward_shots ({self.reward_shots}) must be "
                f"below task.demonstrations ({self.demonstrations}), from which they are taken; "
                "change one"
            )
        return self


class ArithmeticJob(JobConfig):
    """Arithmetic: sample chains of calculation that explain the answer, with a calculator."""

    steps: int = Field(100, ge=0, description="Learner updates by the objective.")
    task: ArithmeticConfig = Field(
        default_factory=ArithmeticConfig, description="The problems and the language of z."
    )
    data: ArithmeticDataConfig = Field(
        default_factory=ArithmeticDataConfig, description="Where problems come from."
    )
    sft: SFTConfig = Field(
        default_factory=lambda: SFTConfig(steps=60), description="Supervised fine-tuning first."
    )
    sampler: SamplerConfig = Field(
        default_factory=lambda: SamplerConfig(
            queries_per_call=8, temperature_low=0.8, temperature_high=1.5, max_prompt_tokens=300
        ),
        description="Sampling.",
    )
    star: STaRConfig = Field(
        default_factory=STaRConfig, description="Rounds of likelihood on the policy's right z."
    )
    # Prefers the best z of each problem: most have few different ones.
    replay: ReplayConfig = Field(
        default_factory=lambda: ReplayConfig(
            alpha=2.0, seed_demonstrations=True, max_times_sampled=None, samples_per_insert=1.5
        ),
        description="The replay buffer.",
    )
    # From the same start subtb gains nothing here: docs/arithmetic.md has measurements of both.
    objective: ObjectiveConfig = Field(default_factory=TBConfig, description="The loss.")
    learner: LearnerConfig = Field(
        default_factory=lambda: LearnerConfig(
            queries_per_step=8, trajectories_per_query=2, lr=1e-4
        ),
        description="The updates.",
    )
    eval: EvalConfig = Field(
        default_factory=lambda: EvalConfig(
            queries=80,
            samples=8,
            tempered_samples=2,
            simulated_queries=0,  # SmolLM2-135M writes hundreds of chains for one with right sums
        ),
        description="Evaluation of the policy.",
    )

    @model_validator(mode="after")
    def _rounds_alone(self) -> ArithmeticJob:
        if self.star.rounds and self.steps:
            raise ValueError(
                f"star.rounds ({self.star.rounds}) come in place of updates by the objective, and "
                f"steps is {self.steps}; set steps to 0, or star.rounds"
            )
        return self
