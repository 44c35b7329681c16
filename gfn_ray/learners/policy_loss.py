"""The objective's loss of a few queries under the current weights, and scores of trajectories.

Owns the forward and backward passes of a policy: log q of chunks, the reference, the learned log Z.
Knows no optimizer and no other chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gfn_ray.config import BaseObjectiveConfig, JobConfig
from gfn_ray.config.objectives import ReferenceConfig, ReferenceKind
from gfn_ray.learners.learner import PolicyScores
from gfn_ray.learners.log_z import LogZHead
from gfn_ray.learners.ranks import Ranks
from gfn_ray.learners.reference import Reference
from gfn_ray.learners.shards import FREE, Free, Lockstep, Passes
from gfn_ray.learners.split_group import as_leaves, carry_on, log_q_in_parts, parts
from gfn_ray.objectives import FlowBatch, choose
from gfn_ray.policy.log_q import LogQ, TrajectoryGroup, chunks, log_q
from gfn_ray.support import Support
from gfn_ray.trajectory import Trajectory

NUMBERS = ("loss", "weight")
"""What `backward` returns of a chunk: sums over its queries."""
ROWS = ("losses", "log_q", "log_z", "log_ratio")
"""What it returns of each trajectory, before the metrics of the objective."""


class PolicyLoss:
    """model: a causal LM whose trainable parameters are the policy's. log_z: the head of a learned
    log Z, if the objective has one; log_z_lr: its rate. rows: ROWS and the objective's metrics."""

    def __init__(self, model: Any, config: JobConfig, support: Support) -> None:
        self._model = model
        self._support = support
        self._budget = config.learner.tokens_per_forward
        self._shards = config.learner.shard
        self._length_bonus = config.reward.length_bonus
        self._masks = torch.as_tensor(support.masks, device=next(model.parameters()).device)
        self._objective = choose(config.objective)
        self._adds_reference = config.objective.adds_reference
        kind = _reference_of(config.objective)
        self.reference = Reference(model, kind)
        needs_base = self._objective.needs_reference and kind == "base"
        if needs_base and not hasattr(model, "disable_adapter"):
            raise ValueError(
                f"objective.kind {config.objective.kind} compares the policy with the model below "
                "its adapter, and this model has no adapter"
            )
        self.rows = (*ROWS, *self._objective.metrics)
        self.log_z_lr = self._objective.log_z_lr
        self.log_z = None if self.log_z_lr is None else LogZHead(model)

    def chunks(self, groups: Sequence[TrajectoryGroup]) -> list[list[TrajectoryGroup]]:
        """Whole queries for one forward pass each; a query that is too large alone."""
        return list(chunks(groups, self._budget))

    def lockstep(
        self, chunks: Sequence[Sequence[TrajectoryGroup]], ranks: Ranks
    ) -> Lockstep | Free:
        """What keeps ranks in step that share one model."""
        if not self._shards:
            return FREE
        return Lockstep(
            [self._passes(chunk) for chunk in chunks], ranks, partial(self._idle, chunks)
        )

    def backward(
        self, chunk: Sequence[TrajectoryGroup], temperature: float, lockstep: Lockstep | Free
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Adds the gradient of the sum of the chunk's losses. Returns NUMBERS, scalars of which
        the loss is a sum, too, and ROWS, each [B]; all detached."""
        reference = self._reference(chunk) if self._objective.needs_reference else None
        split = self._split(chunk)
        if len(split) > 1:
            q = as_leaves(log_q_in_parts(self._log_q_of, split))
        lockstep.before_graph()
        if len(split) == 1:
            q = self._log_q(chunk)
        batch, whole, log_ratio = self._batch(q, chunk, temperature, reference)
        result = self._objective.loss(batch)
        loss = result.loss * result.weight
        loss.backward()  # type: ignore[no-untyped-call]
        if len(split) > 1:
            carry_on(self._log_q_of, split, q)
        lockstep.after_backward()
        rows = [result.per_trajectory, whole, result.log_z, log_ratio]
        rows += [result.metrics[name] for name in self._objective.metrics]
        return [loss.detach(), result.weight], rows

    def estimated_log_z(self, groups: Sequence[TrajectoryGroup], temperature: float) -> float:
        """Mean of log R/T - log q over whole z."""
        scores = self.score(groups)
        learned = [self._log_reward(t)[-1] for g in groups for t in g.trajectories]
        log_reward = np.array(learned, dtype=np.float64)
        return float(np.mean(log_reward / temperature + scores.log_reference - scores.log_q))

    @torch.no_grad()
    def score(self, groups: Sequence[TrajectoryGroup]) -> PolicyScores:
        """log q under the current weights, without gradient."""
        whole, content, reference = [], [], []
        for chunk in self._alone(groups):
            q = self._log_q(chunk)
            whole.append(q.log_q)
            content.append(q.log_pf.sum(dim=1))
            if self._adds_reference:
                reference.append(self._reference(chunk).log_q)
            else:
                reference.append(torch.zeros_like(q.log_q))
        return PolicyScores(*(_float64(parts) for parts in (whole, content, reference)))

    @torch.no_grad()
    def whole_log_q(self, groups: Sequence[TrajectoryGroup]) -> npt.NDArray[np.float64]:
        """log q of whole z [B] alone, under the weights that the model has."""
        return _float64([self._log_q(chunk).log_q for chunk in self._alone(groups)])

    @torch.no_grad()
    def token_log_pf(self, groups: Sequence[TrajectoryGroup]) -> npt.NDArray[np.float64]:
        """log q of every content token, z after z, under the weights that the model has."""
        found: list[Tensor] = []
        for chunk in self._alone(groups):
            rows = self._log_q(chunk).log_pf
            lengths = [len(t) for group in chunk for t in group.trajectories]
            found += [row[:length] for row, length in zip(rows, lengths, strict=True)]
        return _float64(found)

    def _alone(self, groups: Sequence[TrajectoryGroup]) -> list[list[TrajectoryGroup]]:
        """Chunks for passes that compare no trajectory with another: there a large group is simply
        several."""
        return self.chunks([part for group in groups for part in parts(group, self._budget)])

    def _split(self, chunk: Sequence[TrajectoryGroup]) -> list[TrajectoryGroup]:
        """The parts of a query that is too large for one pass; else one element."""
        return parts(chunk[0], self._budget) if len(chunk) == 1 else list(chunk[:1])

    def _passes(self, chunk: Sequence[TrajectoryGroup]) -> Passes:
        """What `backward` makes of a chunk."""
        split = len(self._split(chunk))
        references = split if self._objective.needs_reference else 0
        return Passes(plain=references + (split if split > 1 else 0), learned=split)

    def _idle(self, chunks: Sequence[Sequence[TrajectoryGroup]]) -> Tensor:
        """A pass through the model for the sake of the other ranks."""
        first = chunks[0][0]
        q = self._log_q_of(TrajectoryGroup(first.prompt_ids, first.trajectories[:1]))
        return q.log_q.sum()

    def _batch(
        self,
        q: LogQ,
        groups: Sequence[TrajectoryGroup],
        temperature: float,
        reference: LogQ | None,
    ) -> tuple[FlowBatch, Tensor, Tensor]:
        """The objective's input, and log q and log R/T - log q of each whole z [B], detached."""
        trajectories = [t for g in groups for t in g.trajectories]
        log_reward = q.prefix_matrix([self._log_reward(t) / temperature for t in trajectories])
        batch = FlowBatch(
            q.log_pf, q.log_stop, log_reward, q.terminable, q.group, q.by_policy, temperature
        )
        log_target = log_reward.gather(1, q.lengths[:, None])[:, 0]
        if reference is not None:
            batch = replace(
                batch,
                log_pf_reference=reference.log_pf,
                log_stop_reference=reference.log_stop,
            )
            if self._adds_reference:
                log_target = log_target + reference.log_q
        if self._objective.needs_behavior:
            batch = replace(
                batch,
                log_pf_behavior=q.token_matrix([t.sampler_log_pf for t in trajectories]),
                log_stop_behavior=q.log_pf.new_tensor([t.sampler_log_stop for t in trajectories]),
            )
        whole = q.log_q.detach()
        log_ratio = log_target.detach() - whole
        if self.log_z is not None:
            batch = replace(batch, log_z=self.log_z(groups).to(q.log_pf))
        return batch, whole, log_ratio

    @torch.no_grad()
    def _reference(self, groups: Sequence[TrajectoryGroup]) -> LogQ:
        """log p_ref: under the same support."""
        with self.reference.weights():
            if len(groups) > 1:
                return self._log_q(groups)
            return log_q_in_parts(self._log_q_of, parts(groups[0], self._budget))

    def _log_reward(self, trajectory: Trajectory) -> npt.NDArray[np.float32]:
        """What is learned from [T+1]; replay and evaluations have log R without the bonus."""
        if trajectory.log_reward is None:
            raise ValueError(
                f"an unscored trajectory of query {trajectory.query_id!r} was learned from"
            )
        tokens = np.arange(len(trajectory) + 1, dtype=np.float32)
        return trajectory.log_reward + np.float32(self._length_bonus) * tokens

    def _log_q(self, groups: Sequence[TrajectoryGroup]) -> LogQ:
        return log_q(self._model, groups, self._support, self._masks)

    def _log_q_of(self, group: TrajectoryGroup) -> LogQ:
        return self._log_q([group])


def _float64(parts: list[Tensor]) -> npt.NDArray[np.float64]:
    array: npt.NDArray[np.float64] = torch.cat(parts).double().cpu().numpy()
    return array


def _reference_of(objective: BaseObjectiveConfig) -> ReferenceKind:
    return objective.reference if isinstance(objective, ReferenceConfig) else "base"
