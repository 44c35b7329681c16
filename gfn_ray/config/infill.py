"""Settings of story infilling."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gfn_ray.config.job import JobConfig
from gfn_ray.config.sections import Section


class InfillConfig(Section):
    """The middle sentence of a story, given its beginning and its ending."""

    template: str = Field(
        "Ending: {ending}\nStory: {beginning}",
        description="Prompt of the policy; z continues it. {beginning} and {ending} are filled in.",
    )
    min_len: int = Field(4, ge=1, description="Shortest z, in tokens.")
    max_len: int = Field(
        20, ge=1, description="Longest z, in tokens; only stopping is legal there."
    )
    terminable: Literal["sentence", "every"] = Field(
        "sentence",
        description="Prefixes that may stop and carry a reward: those that end a sentence, "
        "or every one from min_len on.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> InfillConfig:
        if self.min_len > self.max_len:
            raise ValueError(
                f"task.min_len ({self.min_len}) exceeds task.max_len ({self.max_len}); "
                "lower the first or raise the second"
            )
        for name in ("{beginning}", "{ending}"):
            if name not in self.template:
                raise ValueError(f"task.template lacks {name}; got {self.template!r}")
        try:
            self.template.format(beginning="", ending="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"task.template takes {{beginning}} and {{ending}} and doubled braces for literal "
                f"ones; got {self.template!r} ({error!r})"
            ) from None
        return self


class InfillJob(JobConfig):
    """Story infilling: sample the missing sentence z with p(z | beginning, ending)."""

    task: InfillConfig = Field(default_factory=InfillConfig, description="Story infilling.")
