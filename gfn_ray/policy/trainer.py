"""The learner's logic: from scored trajectories to an updated adapter. A plain class.

Owns the optimizer, the learning-rate and reward-temperature schedules, gradient
accumulation over chunks, and the numbers that describe an update. Knows no Ray.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gfn_ray.config import JobConfig
from gfn_ray.objectives.subtb import subtb
from gfn_ray.policy.adapter import Adapter, add_adapter, read_adapter
from gfn_ray.policy.log_q import LogQ, TrajectoryGroup, chunks, log_q
from gfn_ray.trajectory import Support, Trajectory


@dataclass(frozen=True)
class Update:
    """What one update did. losses [B]: mean squared residual of each trajectory, in the
    order of the batch; replay may turn them into priorities."""

    metrics: dict[str, float]
    losses: npt.NDArray[np.float32]


@dataclass(frozen=True)
class PolicyScores:
    """log q of trajectories without gradient. log_q [B]: whole z, stop included.
    log_pf [B]: its content tokens only, as the sampling engine reports them."""

    log_q: npt.NDArray[np.float64]
    log_pf: npt.NDArray[np.float64]


class PolicyTrainer:
    """A LoRA policy on a frozen base, trained by SubTB on whatever trajectories it is given."""

    def __init__(self, base_model: Any, config: JobConfig, support: Support) -> None:
        self._config = config
        self._support = support
        self.model = add_adapter(base_model, config.policy, config.seed)
        self.model.eval()  # no dropout anywhere: log q must be a function of the weights
        device = next(self.model.parameters()).device
        self._masks = torch.as_tensor(support.masks, device=device)
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=config.learner.lr,
            weight_decay=config.learner.weight_decay,
        )
        self.step_count = 0
        self.version = 0

    def step(self, groups: Sequence[TrajectoryGroup]) -> Update:
        """One update on scored trajectories; raises FloatingPointError on a non-finite loss."""
        started = time.perf_counter()
        temperature = self._config.reward.temperature(self.step_count)
        rate = self._learning_rate()
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = rate

        self._optimizer.zero_grad(set_to_none=True)
        total_loss = total_weight = 0.0
        losses, roots, final_log_q = [], [], []
        for chunk in chunks(groups, self._config.learner.tokens_per_forward):
            q = log_q(self.model, chunk, self._support, self._masks)
            rewards = [_log_reward(t) / temperature for g in chunk for t in g.trajectories]
            result = subtb(
                q.log_pf,
                q.log_stop,
                q.prefix_matrix(rewards),
                q.terminable,
                q.group,
                subtb_lambda=self._config.objective.subtb_lambda,
            )
            # Chunks add up as if they were one batch: gradients of the sums, divided below.
            (result.loss * result.weight).backward()
            total_loss += float((result.loss * result.weight).detach())
            total_weight += float(result.weight)
            losses.append(result.per_trajectory)
            roots.append(result.root_flow)
            final_log_q.append(q.log_q.detach())
        if not math.isfinite(total_loss):
            raise FloatingPointError(f"the loss of update {self.step_count + 1} is {total_loss}")
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad /= total_weight
        grad_norm = torch.nn.utils.clip_grad_norm_(
            self._parameters, self._config.learner.max_grad_norm, error_if_nonfinite=True
        )
        self._optimizer.step()
        self.step_count += 1

        metrics = {
            "loss": total_loss / total_weight,
            "grad_norm": float(grad_norm),
            "lr": rate,
            "reward_temperature": temperature,
            "log_z": float(torch.cat(roots).mean()),
            "policy_version": float(self.version - 1),
            **_describe(groups, torch.cat(final_log_q).cpu().numpy(), temperature),
            "learn_seconds": time.perf_counter() - started,
        }
        return Update(metrics, torch.cat(losses).cpu().numpy())

    @torch.no_grad()
    def score(self, groups: Sequence[TrajectoryGroup]) -> PolicyScores:
        """log q under the current weights, for evaluation."""
        parts: list[LogQ] = [
            log_q(self.model, chunk, self._support, self._masks)
            for chunk in chunks(groups, self._config.learner.tokens_per_forward)
        ]
        whole = torch.cat([part.log_q for part in parts])
        content = torch.cat([part.log_pf.sum(dim=1) for part in parts])
        return PolicyScores(whole.double().cpu().numpy(), content.double().cpu().numpy())

    def publish(self) -> Adapter:
        """The current weights as the next version; the first call gives version 0."""
        adapter = read_adapter(self.model, self.version)
        self.version += 1
        return adapter

    def _learning_rate(self) -> float:
        learner = self._config.learner
        return learner.lr * min(1.0, (self.step_count + 1) / (learner.warmup_steps + 1))


def _log_reward(trajectory: Trajectory) -> npt.NDArray[np.float32]:
    if trajectory.log_reward is None:
        raise ValueError(
            f"an unscored trajectory of query {trajectory.query_id!r} was learned from"
        )
    return trajectory.log_reward


def _describe(
    groups: Sequence[TrajectoryGroup], final_log_q: npt.NDArray[Any], temperature: float
) -> dict[str, float]:
    """Batch statistics: rewards, lengths, and Var(log R/T - log q) within a query."""
    flat = [t for group in groups for t in group.trajectories]
    log_reward = np.array([t.final_log_reward for t in flat])
    ratio = log_reward / temperature - final_log_q
    ends = np.cumsum([len(group.trajectories) for group in groups])[:-1]
    return {
        "log_reward_mean": float(log_reward.mean()),
        "log_q_mean": float(final_log_q.mean()),
        "log_ratio_var": float(np.mean([part.var(ddof=1) for part in np.split(ratio, ends)])),
        "length_mean": float(np.mean([len(t) for t in flat])),
        "trajectories": float(len(flat)),
        "learn_tokens": float(sum(len(t) for t in flat)),
    }
