"""Settings of the objectives, one class per kind with only that kind's settings.

`objective.kind` selects the class. To add an objective, write its class here, add it to
`ObjectiveConfig`, and write the loss in one file of `gfn_ray/objectives/`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from gfn_ray.config.sections import Section

RootFlow = Literal["batch_mean", "learned", "terminable"]
_LOG_Z_LR = 1e-2


class BaseObjectiveConfig(Section):
    """Settings of every kind.

    kind: a Literal of its name. maker: the function that makes its `Objective` from these settings,
    as "module:function"; named rather than imported, because losses import torch.
    """

    kind: str
    maker: ClassVar[str]
    float64: bool = Field(False, description="Compute the loss in float64, not float32.")


class RootedConfig(BaseObjectiveConfig):
    """Settings of a loss that compares prefixes of a z with its root, the empty prefix."""

    root_flow: RootFlow = Field(
        "batch_mean",
        description="log Z of a query: the mean over the batch, a learned head on the prompt, or "
        "the flow of the empty z, if z may be empty.",
    )
    log_z_lr: float = Field(
        _LOG_Z_LR, gt=0, description="Learning rate of log Z if root_flow is learned."
    )

    @model_validator(mode="after")
    def _consistent(self) -> RootedConfig:
        if self.root_flow != "learned" and self.log_z_lr != _LOG_Z_LR:
            raise ValueError(
                f"objective.log_z_lr ({self.log_z_lr:g}) belongs to objective.root_flow learned; "
                f"this run has {self.root_flow}"
            )
        return self


class SubTBConfig(RootedConfig):
    """Sub-trajectory balance: all pairs of prefixes that may stop, including the root."""

    kind: Literal["subtb"] = "subtb"
    maker: ClassVar[str] = "gfn_ray.objectives.pairs:make_subtb"
    subtb_lambda: float = Field(
        1.0, gt=0, description="A sub-trajectory's weight falls by this factor per node it skips."
    )


class DBConfig(RootedConfig):
    """Detailed balance: neighbouring prefixes only."""

    kind: Literal["db"] = "db"
    maker: ClassVar[str] = "gfn_ray.objectives.pairs:make_db"


class TBConfig(RootedConfig):
    """Trajectory balance: the root and the whole z."""

    kind: Literal["tb"] = "tb"
    maker: ClassVar[str] = "gfn_ray.objectives.pairs:make_tb"


class VarGradConfig(BaseObjectiveConfig):
    """The variance of log R/T - log q over each query's z."""

    kind: Literal["vargrad"] = "vargrad"
    maker: ClassVar[str] = "gfn_ray.objectives.variance:make_vargrad"


class RefTBConfig(BaseObjectiveConfig):
    """VarGrad with log p_ref + log R/T in place of log R/T: KL-regularised RL at beta = T."""

    kind: Literal["ref_tb"] = "ref_tb"
    maker: ClassVar[str] = "gfn_ray.objectives.variance:make_reference_tb"


ObjectiveConfig = Annotated[
    SubTBConfig | DBConfig | TBConfig | VarGradConfig | RefTBConfig,
    Field(discriminator="kind"),
]
