"""The learner's logic: from scored trajectories to an updated adapter. Independent of Ray.

Owns the optimizer, the learning-rate and reward-temperature schedules, the sum over chunks and
learners, and the metrics of an update.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gfn_ray.config import JobConfig
from gfn_ray.learners.gradient_sum import GradientSum
from gfn_ray.learners.learner import PolicyScores, SkippedUpdate, Update
from gfn_ray.learners.optimizer_step import optimizer_step
from gfn_ray.learners.policy_loss import NUMBERS, ROWS, PolicyLoss
from gfn_ray.learners.ranks import ALONE, Ranks
from gfn_ray.learners.training_state import State, read_training_state, write_training_state
from gfn_ray.policy.adapter import Adapter, put_adapter, read_adapter
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.support import Support


class PolicyTrainer:
    """A `Learner` in one process: applies the configured objective to given trajectories.

    model: a causal LM whose trainable parameters are the policy's, as `add_adapter` leaves it.
    """

    def __init__(
        self, model: Any, config: JobConfig, support: Support, ranks: Ranks = ALONE
    ) -> None:
        self._config = config
        self.model = model.eval()  # no dropout anywhere: log q must be a function of the weights
        device = next(model.parameters()).device
        self._published_dtype = config.sampler.dtype_on(device.type)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._loss = PolicyLoss(model, config, support)
        self._log_z = self._loss.log_z
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=config.learner.lr, weight_decay=config.learner.weight_decay
        )
        if self._log_z is not None:
            self._optimizer.add_param_group(
                {"params": self._log_z.parameters, "lr": self._loss.log_z_lr, "weight_decay": 0.0}
            )
        every = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._ranks = ranks
        self._sum = GradientSum(every, ranks)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._pace)
        self.step_count = 0
        self.version = 0

    def load(self, adapter: Adapter) -> None:
        """Loads the weights of an adapter of the policy's shape."""
        put_adapter(self.model, adapter)

    def step(self, groups: Sequence[TrajectoryGroup]) -> Update | SkippedUpdate:
        """Makes one update on scored trajectories, skipped if loss or gradient is not finite. With
        several ranks, each is given the same trajectories and makes the same update."""
        started = time.perf_counter()
        temperature = self._config.reward.temperature(self.step_count, self._config.steps)
        starts_log_z = self._log_z is not None and not self._log_z.started
        if self._log_z is not None and starts_log_z:
            self._log_z.start_at(self._loss.estimated_log_z(groups, temperature))
        self._loss.reference.before_update()
        self._optimizer.zero_grad(set_to_none=True)
        summed = self._sum_over_chunks(groups, temperature)
        loss, weight = (float(number) for number in summed[: len(NUMBERS)])
        names = self._loss.rows
        rows = dict(zip(names, summed[len(NUMBERS) :].view(len(names), -1), strict=True))
        for parameter in (p for group in self._optimizer.param_groups for p in group["params"]):
            parameter.grad /= max(weight, 1.0)
        rate = float(self._schedule.get_last_lr()[0])
        try:
            # Not the log Z head, whose gradient would dominate the policy's in the norm.
            grad_norm = optimizer_step(
                self._optimizer,
                self._parameters,
                self._config.learner.max_grad_norm,
                {
                    "the loss": loss,
                    "the norm of log Z's gradient": self._log_z_grad_norm(),
                },
            )
        except FloatingPointError as error:
            if self._log_z is not None and starts_log_z:
                self._log_z.forget_start()
            known = {"log_q": rows["log_q"], "loss": rows["losses"]}
            return SkippedUpdate(
                str(error), {name: row.double().cpu().numpy() for name, row in known.items()}
            )
        self._schedule.step()
        self.step_count += 1

        metrics = {
            "loss": loss / max(weight, 1.0),
            "grad_norm": grad_norm,
            "lr": rate,
            "reward_temperature": temperature,
            "log_z": float(rows["log_z"].mean()),
            "policy_version": float(self.version - 1),
            **_describe(groups, rows["log_ratio"].cpu().numpy()),
            **_means({name: rows[name] for name in names[len(ROWS) :]}),
            "learn_seconds": time.perf_counter() - started,
        }
        return Update(metrics, rows["losses"].float().cpu().numpy())

    def _sum_over_chunks(self, groups: Sequence[TrajectoryGroup], temperature: float) -> Tensor:
        """Leaves the gradient of the sum of all losses; returns NUMBERS, then rows [B] each."""
        count = len(self._loss.rows)
        chunks = self._loss.chunks(groups)
        sizes = [sum(len(group.trajectories) for group in chunk) for chunk in chunks]
        ends = np.cumsum(sizes)
        lockstep = self._loss.lockstep(chunks, self._ranks)

        def learn(index: int, summed: Tensor) -> None:
            numbers, rows = self._loss.backward(chunks[index], temperature, lockstep)
            own = slice(ends[index] - sizes[index], ends[index])
            summed[: len(NUMBERS)] = torch.stack(numbers)
            summed[len(NUMBERS) :].view(count, -1)[:, own] = torch.stack(rows)

        numbers = len(NUMBERS) + count * int(ends[-1])
        return self._sum.over(len(chunks), numbers, learn, lockstep)

    def _log_z_grad_norm(self) -> float:
        """Gradient norm of the log Z head; 0 if there is none."""
        parameters = [] if self._log_z is None else self._log_z.parameters
        gradients = [p.grad for p in parameters if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0

    def score(self, groups: Sequence[TrajectoryGroup]) -> PolicyScores:
        """log q under the current weights, for evaluation."""
        return self._loss.score(groups)

    def log_reference(self, groups: Sequence[TrajectoryGroup]) -> npt.NDArray[np.float64]:
        """log p of whole z under the model below the adapter, which takes no part in it."""
        with self.model.disable_adapter():
            return self._loss.whole_log_q(groups)

    def token_log_pf(
        self, adapter: Adapter, groups: Sequence[TrajectoryGroup]
    ) -> npt.NDArray[np.float64]:
        """log q of every content token, z after z, under another adapter; restores the policy's
        weights afterwards."""
        own = read_adapter(self.model, self.version)
        put_adapter(self.model, adapter)
        try:
            return self._loss.token_log_pf(groups)
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
            "reference": self._loss.reference.state(),
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
        self._loss.reference.restore(state["reference"])
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


def _means(rows: dict[str, Tensor]) -> dict[str, float]:
    """Means over the trajectories that have a value; of none, if none has."""
    means = {name: float(row.nanmean()) for name, row in rows.items()}
    return {name: mean for name, mean in means.items() if not np.isnan(mean)}
