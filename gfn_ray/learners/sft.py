"""SFT: likelihood tuning of the policy on demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gfn_ray.learners.learner import SkippedUpdate
from gfn_ray.learners.optimizer_step import optimizer_step
from gfn_ray.learners.training_state import State, read_training_state, write_training_state
from gfn_ray.policy.log_q import TrajectoryGroup, chunks, log_q
from gfn_ray.support import Support


class SFTTrainer:
    """Maximises log q(z) of given z, under the support, with its own optimizer.

    model: a causal LM whose trainable parameters are the policy's. Tokens that a tool wrote are not
    learned.
    """

    def __init__(
        self,
        model: Any,
        support: Support,
        *,
        lr: float,
        max_grad_norm: float,
        tokens_per_forward: int,
    ) -> None:
        self._model = model.eval()
        self._support = support
        self._masks = torch.as_tensor(support.masks, device=next(model.parameters()).device)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=lr, weight_decay=0.0)
        self._max_grad_norm = max_grad_norm
        self._budget = tokens_per_forward

    def step(self, groups: Sequence[TrajectoryGroup]) -> dict[str, float] | SkippedUpdate:
        """Makes one update, skipped if its loss or gradient is not finite. The loss is the mean of
        -log q over the policy's tokens, including stops."""
        self._optimizer.zero_grad(set_to_none=True)
        tokens = sum(int((~t.tool_mask).sum()) + 1 for g in groups for t in g.trajectories)
        total, parts = 0.0, []
        for chunk in chunks(groups, self._budget):
            whole = log_q(self._model, chunk, self._support, self._masks).log_q
            loss = -whole.sum() / tokens
            loss.backward()
            total += float(loss.detach())
            parts.append(whole.detach())
        try:
            norm = optimizer_step(
                self._optimizer, self._parameters, self._max_grad_norm, {"the loss": total}
            )
        except FloatingPointError as error:
            return SkippedUpdate(str(error), {"log_q": torch.cat(parts).double().cpu().numpy()})
        return {"loss": total, "grad_norm": norm, "tokens": float(tokens)}

    def state(self) -> State:
        """Copies of everything later updates depend on, including the policy's parameters."""
        return read_training_state(self._optimizer)

    def restore(self, state: State) -> None:
        """Restores what state() returned; the settings must be the same."""
        write_training_state(self._optimizer, state)
