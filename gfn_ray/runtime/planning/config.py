"""Settings of `gfn-ray plan`: those of a run, and what it would run on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from gfn_ray.config.sections import Section
from gfn_ray.tasks.infill.config import InfillJob

GPUName = Literal["l40s", "a100-40", "a100-80", "h100", "h200", "b200"]


class PlanConfig(Section):
    size: Literal["135m", "1b", "gptj-6b", "8b", "70b"] | None = Field(
        None,
        description="Plan for a model of this size, as in clusters/settings; else for model.name, "
        "which is downloaded.",
    )
    gpu: GPUName = Field("h100", description="Kind of GPU.")
    gpus: int = Field(8, ge=1, le=4096, description="Number of them.")
    prompt_tokens: int = Field(100, ge=1, description="Tokens of a query's prompt.")
    z_tokens: int = Field(20, ge=1, description="Tokens of a z.")
    answer_tokens: int = Field(
        20, ge=0, description="Tokens that the reward appends to each prefix it scores."
    )
    prefixes: int = Field(3, ge=1, description="Prefixes of a z that the reward scores.")
    profile: Path | None = Field(
        None,
        description="Directory of a run with --profile.seconds on CPU cores: predict a run with "
        "these settings from its calls, instead of one on GPUs by formula.",
    )
    cores: int = Field(2, ge=1, description="CPU cores that its actors share.")


class PlanJob(InfillJob):
    """What a run would need and how fast it would go, before you pay for it.

    Takes the settings of a run, such as --config clusters/settings/8b.toml; lengths are those of
    --plan.*. Prints memory by actor, the best division of the GPUs and what bounds it.
    """

    plan: PlanConfig = Field(default_factory=PlanConfig, description="What to plan for.")
