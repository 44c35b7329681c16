"""The learner's logic: from scored trajectories to an updated adapter. Independent of Ray.

Owns the optimizer, the learning-rate and reward-temperature schedules, gradient accumulation over
chunks, and the metrics of an update.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gfn_ray.config import JobConfig
from gfn_ray.learners.learner import PolicyScores, SkippedUpdate, Update
from gfn_ray.learners.log_z import LogZHead
from gfn_ray.learners.optimizer_step import optimizer_step
from gfn_ray.learners.split_group import as_leaves, carry_on, log_q_in_parts, parts
from gfn_ray.learners.training_state import State, read_training_state, write_training_state
from gfn_ray.objectives import FlowBatch, choose
from gfn_ray.policy.adapter import Adapter, put_adapter, read_adapter
from gfn_ray.policy.log_q import LogQ, TrajectoryGroup, chunks, log_q
from gfn_ray.support import Support
from gfn_ray.trajectory import Trajectory


class PolicyTrainer:
    """A `Learner` in one process: applies the configured objective to given trajectories.

    model: a causal LM whose trainable parameters are the policy's, as `add_adapter` leaves it.
    """

    def __init__(self, model: Any, config: JobConfig, support: Support) -> None:
        self._config = config
        self._support = support
        self.model = model.eval()  # no dropout anywhere: log q must be a function of the weights
        device = next(model.parameters()).device
        self._masks = torch.as_tensor(support.masks, device=device)
        self._published_dtype = config.sampler.dtype_on(device.type)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._objective = choose(config.objective)
        if self._objective.needs_reference and not hasattr(model, "disable_adapter"):
            raise ValueError(
                f"objective.kind {config.objective.kind} compares the policy with the model below "
                "its adapter, and this model has no adapter"
            )
        rate = self._objective.log_z_lr
        self._log_z = None if rate is None else LogZHead(model)
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=config.learner.lr, weight_decay=config.learner.weight_decay
        )
        if self._log_z is not None:
            self._optimizer.add_param_group(
                {"params": self._log_z.parameters, "lr": rate, "weight_decay": 0.0}
            )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._pace)
        self.step_count = 0
        self.version = 0

    def load(self, adapter: Adapter) -> None:
        """Loads the weights of an adapter of the policy's shape."""
        put_adapter(self.model, adapter)

    def step(self, groups: Sequence[TrajectoryGroup]) -> Update | SkippedUpdate:
        """Makes one update on scored trajectories, skipped if loss or gradient is not finite."""
        started = time.perf_counter()
        temperature = self._config.reward.temperature(self.step_count, self._config.steps)
        starts_log_z = self._log_z is not None and not self._log_z.started
        if self._log_z is not None and starts_log_z:
            self._log_z.start_at(self._estimated_log_z(groups, temperature))
        self._optimizer.zero_grad(set_to_none=True)
        total_loss = total_weight = 0.0
        losses, log_qs, log_z, log_ratios = [], [], [], []
        budget = self._config.learner.tokens_per_forward
        for chunk in chunks(groups, budget):
            split = parts(chunk[0], budget) if len(chunk) == 1 else []
            if len(split) > 1:
                q = as_leaves(log_q_in_parts(self._log_q_of, split))
            else:
                q = self._log_q(chunk)
            batch, whole, log_ratio = self._batch(q, chunk, temperature)
            result = self._objective.loss(batch)
            # Chunks add up to one batch: gradients of sums, divided below.
            (result.loss * result.weight).backward()
            if len(split) > 1:
                carry_on(self._log_q_of, split, q)
            total_loss += float((result.loss * result.weight).detach())
            total_weight += float(result.weight)
            losses.append(result.per_trajectory)
            log_qs.append(whole)
            log_z.append(result.log_z)
            log_ratios.append(log_ratio)
        for parameters in self._optimizer.param_groups:
            for parameter in parameters["params"]:
                if parameter.grad is not None:
                    parameter.grad /= max(total_weight, 1.0)
        rate = float(self._schedule.get_last_lr()[0])
        try:
            # Not the log Z head, whose gradient would dominate the policy's in the norm.
            grad_norm = optimizer_step(
                self._optimizer,
                self._parameters,
                self._config.learner.max_grad_norm,
                {
                    "the loss": total_loss,
                    "the norm of log Z's gradient": self._log_z_grad_norm(),
                },
            )
        except FloatingPointError as error:
            if self._log_z is not None and starts_log_z:
                self._log_z.forget_start()
            return SkippedUpdate(str(error), {"log_q": _float64(log_qs), "loss": _float64(losses)})
        self._schedule.step()
        self.step_count += 1

        metrics = {
            "loss": total_loss / max(total_weight, 1.0),
            "grad_norm": grad_norm,
            "lr": rate,
            "reward_temperature": temperature,
            "log_z": float(torch.cat(log_z).mean()),
            "policy_version": float(self.version - 1),
            **_describe(groups, torch.cat(log_ratios).cpu().numpy()),
            "learn_seconds": time.perf_counter() - started,
        }
        return Update(metrics, torch.cat(losses).float().cpu().numpy())

    def _log_q(self, groups: Sequence[TrajectoryGroup]) -> LogQ:
        return log_q(self.model, groups, self._support, self._masks)

    def _log_q_of(self, group: TrajectoryGroup) -> LogQ:
        return self._log_q([group])

    def _batch(
        self, q: LogQ, groups: Sequence[TrajectoryGroup], temperature: float
    ) -> tuple[FlowBatch, Tensor, Tensor]:
        """The objective's input, and log q and log R/T - log q of each whole z [B], detached."""
        rewards = [_log_reward(t) / temperature for g in groups for t in g.trajectories]
        log_reward = q.prefix_matrix(rewards)
        batch = FlowBatch(q.log_pf, q.log_stop, log_reward, q.terminable, q.group)
        log_target = log_reward.gather(1, q.lengths[:, None])[:, 0]
        if self._objective.needs_reference:
            reference = self._reference(groups)
            batch = replace(batch, log_reference=reference.prefix_log_q)
            log_target = log_target + reference.log_q
        whole = q.log_q.detach()
        log_ratio = log_target.detach() - whole
        if self._log_z is not None:
            batch = replace(batch, log_z=self._log_z(groups).to(q.log_pf))
        return batch, whole, log_ratio

    def _log_z_grad_norm(self) -> float:
        """Gradient norm of the log Z head; 0 if there is none."""
        parameters = [] if self._log_z is None else self._log_z.parameters
        gradients = [p.grad for p in parameters if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0

    def _estimated_log_z(self, groups: Sequence[TrajectoryGroup], temperature: float) -> float:
        """Mean of log R/T - log q over whole z, before the first update."""
        scores = self.score(groups)
        log_reward = np.array([t.final_log_reward for g in groups for t in g.trajectories])
        return float(np.mean(log_reward / temperature + scores.log_reference - scores.log_q))

    @torch.no_grad()
    def _reference(self, groups: Sequence[TrajectoryGroup]) -> LogQ:
        """log q under the untrained policy: the same support, without the adapter."""
        with self.model.disable_adapter():
            if len(groups) > 1:
                return self._log_q(groups)
            budget = self._config.learner.tokens_per_forward
            return log_q_in_parts(self._log_q_of, parts(groups[0], budget))

    @torch.no_grad()
    def score(self, groups: Sequence[TrajectoryGroup]) -> PolicyScores:
        """log q under the current weights, for evaluation."""
        whole, content, reference = [], [], []
        budget = self._config.learner.tokens_per_forward
        # No trajectory is compared with another here, so a large group is simply several.
        small = [part for group in groups for part in parts(group, budget)]
        for chunk in chunks(small, budget):
            q = self._log_q(chunk)
            whole.append(q.log_q)
            content.append(q.log_pf.sum(dim=1))
            if self._objective.needs_reference:
                reference.append(self._reference(chunk).log_q)
            else:
                reference.append(torch.zeros_like(q.log_q))
        return PolicyScores(*(_float64(parts) for parts in (whole, content, reference)))

    def score_under(self, adapter: Adapter, groups: Sequence[TrajectoryGroup]) -> PolicyScores:
        """Computes the same under another adapter; restores the policy's weights afterwards."""
        own = read_adapter(self.model, self.version)
        put_adapter(self.model, adapter)
        try:
            return self.score(groups)
        finally:
            put_adapter(self.model, own)

    def publish(self) -> Adapter:
        """Returns the current weights as the next version, in the sampling engine's precision; the
        first call gives version 0."""
        adapter = read_adapter(self.model, self.version, self._published_dtype)
        self.version += 1
        return adapter

    def adapter(self) -> Adapter:
        """Returns the current weights in full precision, as the version last published."""
        return read_adapter(self.model, self.version - 1)

    def state(self) -> State:
        """Copies of everything later updates and publications depend on."""
        return {
            **read_training_state(self._optimizer),
            "step_count": self.step_count,
            "version": self.version,
            "log_z_started": self._log_z is not None and self._log_z.started,
        }

    def restore(self, state: State, version: int | None = None) -> None:
        """Restores what state() returned; the settings must be the same.

        version: of the next publication, if it differs from the stored one.
        """
        write_training_state(self._optimizer, state)
        self.step_count = state["step_count"]
        self.version = state["version"] if version is None else version
        if self._log_z is not None:
            self._log_z.started = state["log_z_started"]
        rates = [base * self._pace(self.step_count) for base in self._schedule.base_lrs]
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._schedule.load_state_dict(
            {**self._schedule.state_dict(), "last_epoch": self.step_count, "_last_lr": rates}
        )

    def _pace(self, step: int) -> float:
        """Learning-rate factor of an update (0-based)."""
        learner, last = self._config.learner, max(0, self._config.steps - 1)
        warm_up = min(1.0, (step + 1) / (min(learner.warmup_steps, last) + 1))
        done = min(1.0, step / max(1, last))
        return warm_up * (1.0 - done * (1.0 - learner.lr_end))


def _float64(parts: list[Tensor]) -> npt.NDArray[np.float64]:
    array: npt.NDArray[np.float64] = torch.cat(parts).double().cpu().numpy()
    return array


def _log_reward(trajectory: Trajectory) -> npt.NDArray[np.float32]:
    if trajectory.log_reward is None:
        raise ValueError(
            f"an unscored trajectory of query {trajectory.query_id!r} was learned from"
        )
    return trajectory.log_reward


def _describe(groups: Sequence[TrajectoryGroup], log_ratio: npt.NDArray[Any]) -> dict[str, float]:
    """Batch statistics: rewards, lengths, and Var(log R/T - log q) within a query."""
    flat = [t for group in groups for t in group.trajectories]
    ends = np.cumsum([len(group.trajectories) for group in groups])[:-1]
    return {
        "log_reward_mean": float(np.mean([t.final_log_reward for t in flat])),
        "log_ratio_var": float(np.mean([part.var(ddof=1) for part in np.split(log_ratio, ends)])),
        "length_mean": float(np.mean([len(t) for t in flat])),
        "trajectories": float(len(flat)),
        "learn_tokens": float(sum(len(t) for t in flat)),
    }
