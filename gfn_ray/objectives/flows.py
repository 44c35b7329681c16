"""Input and output of every loss, and the flow of the root.

All objectives share one signature, `FlowBatch -> ObjectiveLoss`. The inputs are
log-probabilities that the learner recomputed under the support and log-rewards that it
already divided by the reward temperature.

A prefix s_t that may stop has its own flow, log F(s_t) = log R(s_t) - log q(stop | s_t)
(Hu et al. 2024, eq. 3), so the residual of two such prefixes i < j of one trajectory,

    Delta_ij = log F(s_i) + sum_{i<k<=j} log q(z_k | s_{k-1}) - log F(s_j) = u_i - u_j,

is a difference of two numbers that each belong to one prefix,

    u_t = log R(s_t) - log q(stop | s_t) - sum_{k<=t} log q(z_k | s_{k-1}).

q is the posterior exactly when every u equals log Z of its query, which is log F(root).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gfn_ray.config import RootFlow


def path_log_pf(log_pf: Tensor) -> Tensor:
    """Returns log q of reaching each prefix [B, T+1], without its stop, from log_pf [B, T]."""
    return torch.cat([log_pf.new_zeros(len(log_pf), 1), log_pf.cumsum(dim=1)], dim=1)


@dataclass(frozen=True)
class FlowBatch:
    """Trajectories of several queries, padded; all log-values in nats, in one float dtype.

    log_pf [B, T]: log q(z_k | s_{k-1}), 0 at padding and at tool-written tokens.
    log_stop [B, T+1]: log q(stop | s_t), used only where terminable.
    log_reward [B, T+1]: log R(s_t) / T_r, used only where terminable.
    terminable [B, T+1]: bool, the prefixes that may stop; at least one in every row.
    group [B]: integer id of each trajectory's query.
    by_policy [B, T]: bool, the tokens that the policy wrote: neither padding nor a tool's.
    temperature: T_r.
    log_z [B]: a learned log Z of each trajectory's query, for root flow "learned".
    log_pf_reference [B, T], log_stop_reference [B, T+1]: the same of p_ref, if the objective needs
        a reference.
    log_pf_behavior [B, T], log_stop_behavior [B]: of the tokens and the stop of the whole z, by the
        policy that sampled it, if the objective needs to know.
    """

    log_pf: Tensor
    log_stop: Tensor
    log_reward: Tensor
    terminable: Tensor
    group: Tensor
    by_policy: Tensor
    temperature: float = 1.0
    log_z: Tensor | None = None
    log_pf_reference: Tensor | None = None
    log_stop_reference: Tensor | None = None
    log_pf_behavior: Tensor | None = None
    log_stop_behavior: Tensor | None = None

    def __post_init__(self) -> None:
        if not bool(self.terminable.any(dim=1).all()):
            raise ValueError(
                "every trajectory needs a terminable prefix; give dead ends a floor reward"
            )

    def double(self) -> FlowBatch:
        """Returns the batch in float64."""
        wide: dict[str, Any] = {
            name: value.double()
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        return replace(self, **wide)

    @property
    def u(self) -> Tensor:
        """u_t [B, T+1] as above, 0 where not terminable."""
        path = path_log_pf(self.log_pf)
        return torch.where(self.terminable, self.log_reward - self.log_stop - path, 0.0)

    @property
    def log_reference(self) -> Tensor:
        """log p_ref(s_t, stop) of each prefix as a whole z [B, T+1], 0 where not terminable."""
        if self.log_pf_reference is None or self.log_stop_reference is None:
            raise ValueError("an objective that uses p_ref must say needs_reference")
        whole = path_log_pf(self.log_pf_reference) + self.log_stop_reference
        return torch.where(self.terminable, whole, 0.0)

    @property
    def ends(self) -> Tensor:
        """The longest terminable prefix of each row, as a mask [B, T+1]."""
        later = self.terminable.flip(1).cumsum(dim=1).flip(1)
        return self.terminable & (later == 1)


@dataclass(frozen=True)
class ObjectiveLoss:
    """loss: scalar. weight: the divisor in it, so that losses of parts of a batch (whole
    queries) combine as sum(loss * weight) / sum(weight). per_trajectory [B]: detached
    mean squared residual of each, or what else the loss is a mean of. log_z [B]: detached log
    F(root) of its query. metrics: further numbers [B] by name, detached; NaN where none."""

    loss: Tensor
    weight: Tensor
    per_trajectory: Tensor
    log_z: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


Loss = Callable[[FlowBatch], ObjectiveLoss]


@dataclass(frozen=True)
class Objective:
    """A loss, and what it needs beyond the fields that every batch has.

    needs_reference: log-probabilities under p_ref.
    needs_behavior: those under the policy that sampled each z.
    needs_empty_z: a support in which the empty z may stop.
    log_z_lr: log_z, from a head on the prompt that learns at this rate; None: no such head.
    metrics: names of the metrics that each of its losses has.
    """

    loss: Loss
    needs_reference: bool = False
    needs_behavior: bool = False
    needs_empty_z: bool = False
    log_z_lr: float | None = None
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Nodes:
    """The nodes of a loss: column 0 is the root, columns 1.. are prefixes 0..T.

    values [B, T+2]: u of each node. is_node [B, T+2]: bool. log_z [B]: detached u of the root.
    """

    values: Tensor
    is_node: Tensor
    log_z: Tensor


def nodes_with_root(batch: FlowBatch, chosen: Tensor, root_flow: RootFlow) -> Nodes:
    """Returns the prefixes of a batch that a loss compares, and their root.

    chosen [B, T+1]: bool, a subset of batch.terminable. root_flow: the source of log F(root):
    "batch_mean": the mean of u over the chosen prefixes of a query's trajectories, each
        trajectory counting once, without gradient; it needs two trajectories per query.
    "learned": batch.log_z, trained by the same loss.
    "terminable": the empty prefix, which may stop and so has its own flow.
    """
    u = batch.u
    if root_flow == "terminable":
        if not bool(batch.terminable[:, 0].all()):
            raise ValueError(
                "objective.root_flow terminable needs an empty z that may stop, and this task's "
                "may not; use batch_mean"
            )
        root = u[:, 0]
        # The empty prefix is the root itself, so it does not count as another node.
        chosen = chosen & (torch.arange(chosen.shape[1], device=chosen.device) > 0)
    elif root_flow == "learned":
        if batch.log_z is None:
            raise ValueError("objective.root_flow learned needs log_z, which this batch lacks")
        root = batch.log_z
    else:
        root = group_mean(u.detach(), chosen, batch.group)
    is_node = torch.cat([torch.ones_like(chosen[:, :1]), chosen], dim=1)
    return Nodes(torch.cat([root[:, None], u], dim=1), is_node, root.detach())


def group_mean(u: Tensor, chosen: Tensor, group: Tensor) -> Tensor:
    """Returns the mean over a query's trajectories [B] of u averaged over chosen prefixes."""
    own = (u * chosen).sum(dim=1) / chosen.sum(dim=1)
    same = same_group(group).to(u.dtype)
    return same @ own / same.sum(dim=1)


def same_group(group: Tensor) -> Tensor:
    """Returns which trajectories share a query, bool [B, B]."""
    return group[:, None] == group[None, :]
