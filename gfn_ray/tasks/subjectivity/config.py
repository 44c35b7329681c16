"""Settings of subjectivity classification with rationales."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from gfn_ray.config.checks import check_end, check_lengths, check_template
from gfn_ray.config.data import DataConfig
from gfn_ray.config.em import EMConfig
from gfn_ray.config.job import JobConfig
from gfn_ray.config.sections import (
    EvalConfig,
    SamplerConfig,
    Section,
)


class SubjectivityDataConfig(DataConfig):
    path: Path | None = Field(
        None,
        description="JSON lines {text, label, label_text}, label 1 for subjective; default: the "
        "embedded sentences.",
    )
    hub: str | None = Field(
        None, description="Hugging Face dataset id with columns text and label, instead of a file."
    )


class SubjectivityConfig(Section):
    """Is a sentence objective or subjective? First a rationale z, then the label y."""

    labels: int = Field(10, ge=2, description="Labelled sentences, half of each label.")
    draw: int = Field(0, ge=0, description="Seed of the draw of labelled sentences from the pool.")
    label_noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the labelled sentences whose label is turned into the other, for "
        "every method; test labels stay right.",
    )
    template: str = Field(
        "{text}\nThis sentence",
        description="Prompt of the policy, which z continues; {text} is filled in.",
    )
    reward_template: str | None = Field(
        None, description="Text before z when the LM scores it; default: task.template."
    )
    answer: str = Field(
        "\nThis sentence is from a movie {label}",
        description="Text after z in the target; {label} is filled in. The part common to both "
        "labels belongs to p(z | x), the rest is y.",
    )
    direct_template: str = Field(
        "{text}", description="Text before the same answer for baselines without z."
    )
    label_words: tuple[str, str] = Field(
        ("summary", "review"), description="{label} for objective, then for subjective."
    )
    named_stems: tuple[str, ...] = Field(
        ("objectiv", "subjectiv", "summar", "review"),
        description="A rationale with one of these, or with a label word, leaks the label.",
    )
    label_floor: float = Field(
        -20.0,
        lt=0,
        description="Value for log p(y | x, z), in nats, if z leaks the label: such rationales are "
        "outside the target, and none inside gets less.",
    )
    wrong_label_penalty: float = Field(
        0.0, ge=0, description="Nats taken off log R if p(y | x, z) prefers the wrong label."
    )
    min_len: int = Field(3, ge=1, description="Shortest z, in tokens.")
    max_len: int = Field(
        16, ge=1, description="Longest z, in tokens; only stopping is legal there."
    )
    calibration: Literal["validation", "content_free", "none"] = Field(
        "validation",
        description="Prior correction of every method: the log-odds that splits validation texts "
        "in half (without their labels), those of empty inputs, or none.",
    )
    calibration_rows: int = Field(20, ge=2, description="Validation texts used for it.")
    shots: int = Field(
        8, ge=1, description="Labelled sentences in the few-shot prompt, at most task.labels."
    )

    @model_validator(mode="after")
    def _consistent(self) -> SubjectivityConfig:
        check_lengths(self.min_len, self.max_len)
        templates = {
            "template": ("text", self.template),
            "reward_template": ("text", self.reward_template or self.template),
            "direct_template": ("text", self.direct_template),
            "answer": ("label", self.answer),
        }
        for name, (field, template) in templates.items():
            check_template(f"task.{name}", template, (field,), needed=(field,))
        for name in ("template", "reward_template"):
            check_end(f"task.{name}", templates[name][1], "z")
        if self.answer.startswith(" "):
            check_end("task.direct_template", self.direct_template, "task.answer")
        if self.label_words[0] == self.label_words[1] or not all(
            word.strip() for word in self.label_words
        ):
            raise ValueError(
                f"task.label_words takes two different words; got {', '.join(self.label_words)}"
            )
        if self.wrong_label_penalty >= -self.label_floor:
            raise ValueError(
                f"task.wrong_label_penalty ({self.wrong_label_penalty:g}) reaches down to "
                f"task.label_floor ({self.label_floor:g}), so a z that leaks its label would be no "
                "worse than one with the wrong label; lower the second below "
                f"{-self.wrong_label_penalty:g}"
            )
        if not all(any(c.isalnum() for c in stem) for stem in self.named_stems):
            raise ValueError("task.named_stems has a stem without a letter; leave it out")
        return self


class SubjectivityJob(JobConfig):
    """Subjectivity: explain a sentence by a rationale z, then label it; EM on a few labels."""

    steps: int = Field(40, ge=0, description="Learner updates by the objective, in all rounds.")
    task: SubjectivityConfig = Field(
        default_factory=SubjectivityConfig, description="Rationales and labels."
    )
    em: EMConfig = Field(
        default_factory=EMConfig, description="Expectation maximisation of p(y | x)."
    )
    data: SubjectivityDataConfig = Field(
        default_factory=SubjectivityDataConfig, description="Where sentences come from."
    )
    sampler: SamplerConfig = Field(
        default_factory=lambda: SamplerConfig(queries_per_call=5), description="Sampling."
    )
    eval: EvalConfig = Field(
        default_factory=lambda: EvalConfig(queries=40, samples=8, tempered_samples=2),
        description="Evaluation of the policy and the labels; queries are test sentences.",
    )
