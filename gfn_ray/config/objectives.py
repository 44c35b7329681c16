"""Settings of the objectives, one class per kind with only that kind's settings.

`objective.kind` selects the class. To add an objective, write its class here, add it to
`ObjectiveConfig`, and write the loss in one file of `gfn_ray/objectives/`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from gfn_ray.config.sections import Section

RootFlow = Literal["batch_mean", "learned", "terminable"]
ReferenceKind = Literal["base", "start"]
Pairs = Literal["bradley_terry", "best_worst"]
_LOG_Z_LR = 1e-2


class BaseObjectiveConfig(Section):
    """Settings of every kind.

    kind: a Literal of its name. maker: the function that makes its `Objective` from these settings,
    as "module:function"; named rather than imported, because losses import torch.
    """

    kind: str
    maker: ClassVar[str]
    float64: bool = Field(False, description="Compute the loss in float64, not float32.")

    @property
    def adds_reference(self) -> bool:
        """Whether q shall be proportional to p_ref R^(1/T), not R^(1/T)."""
        return False


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


class ReferenceConfig(BaseObjectiveConfig):
    """Settings of a loss that compares the policy with p_ref, a frozen one."""

    reference: ReferenceKind = Field(
        "base",
        description="p_ref: the base model, or the policy as it was before the first update by the "
        "objective, such as after SFT.",
    )


class RefTBConfig(ReferenceConfig):
    """VarGrad with log p_ref + log R/T in place of log R/T: KL-regularised RL at beta = T."""

    kind: Literal["ref_tb"] = "ref_tb"
    maker: ClassVar[str] = "gfn_ray.objectives.variance:make_reference_tb"

    @property
    def adds_reference(self) -> bool:
        return True


class RewardedConfig(ReferenceConfig):
    """Settings of a loss from the literature on rewards, r(z), kept near p_ref with weight beta =
    reward.temperature: its optimum is p_ref exp(r / beta)."""

    reward: Literal["matched", "task"] = Field(
        "matched",
        description="r(z). matched: log R - beta log p_ref, whose optimum is the posterior, "
        "R^(1/beta), as of other objectives. task: log R itself, whose optimum is "
        "p_ref R^(1/beta). beta is the reward temperature.",
    )

    @property
    def matched(self) -> bool:
        return self.reward == "matched"

    @property
    def adds_reference(self) -> bool:
        return not self.matched


class ClippedConfig(RewardedConfig):
    """Settings of a policy gradient with clipped ratios."""

    clip: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="The ratio of q to the policy that sampled z counts within 1 - clip to "
        "1 + clip.",
    )


class KLInRewardConfig(ClippedConfig):
    """The KL to p_ref is a part of the reward."""

    @model_validator(mode="after")
    def _consistent(self) -> KLInRewardConfig:
        if self.matched and self.reference != "base":
            raise ValueError(
                f"objective.reference ({self.reference}) has no effect on objective.kind "
                f"{self.kind} with objective.reward matched, where p_ref cancels; leave it out or "
                "set objective.reward to task"
            )
        return self


class PPOConfig(KLInRewardConfig):
    """Proximal policy optimisation with leave-one-out advantages, a ratio for each token."""

    kind: Literal["ppo"] = "ppo"
    maker: ClassVar[str] = "gfn_ray.objectives.policy_gradient:make_ppo"


class RLOOConfig(KLInRewardConfig):
    """REINFORCE with leave-one-out advantages, one ratio for the whole z."""

    kind: Literal["rloo"] = "rloo"
    maker: ClassVar[str] = "gfn_ray.objectives.policy_gradient:make_rloo"


class GRPOConfig(ClippedConfig):
    """Advantages scaled by their standard deviation, and the KL to p_ref in the loss (k3)."""

    kind: Literal["grpo"] = "grpo"
    maker: ClassVar[str] = "gfn_ray.objectives.policy_gradient:make_grpo"


class DPOConfig(RewardedConfig):
    """Direct preference optimisation on pairs of a query's z."""

    kind: Literal["dpo"] = "dpo"
    maker: ClassVar[str] = "gfn_ray.objectives.preference:make_dpo"
    pairs: Pairs = Field(
        "bradley_terry",
        description="Pairs of a query's z. bradley_terry: all, each preferred with probability "
        "sigmoid(r - r'). best_worst: the best against the worst, unless all are equal.",
    )


class MLEConfig(BaseObjectiveConfig):
    """Likelihood of the z in replay that are good enough."""

    kind: Literal["mle"] = "mle"
    maker: ClassVar[str] = "gfn_ray.objectives.likelihood:make_mle"
    accept_from: float | None = Field(
        None, description="Smallest log R of a z that is learned; none: all are."
    )


ObjectiveConfig = Annotated[
    SubTBConfig
    | DBConfig
    | TBConfig
    | VarGradConfig
    | RefTBConfig
    | PPOConfig
    | RLOOConfig
    | GRPOConfig
    | DPOConfig
    | MLEConfig,
    Field(discriminator="kind"),
]
