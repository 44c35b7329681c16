"""SFT: likelihood tuning of the policy on demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from gfn_ray.learners.gradient_sum import GradientSum
from gfn_ray.learners.learner import SkippedUpdate
from gfn_ray.learners.optimizer_step import optimizer_step
from gfn_ray.learners.ranks import ALONE, Ranks
from gfn_ray.learners.shards import FREE, Lockstep, Passes
from gfn_ray.learners.split_group import parts
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
        ranks: Ranks = ALONE,
        shard: bool = False,
    ) -> None:
        self._model = model.eval()
        self._support = support
        self._masks = torch.as_tensor(support.masks, device=next(model.parameters()).device)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=lr, weight_decay=0.0)
        self._max_grad_norm = max_grad_norm
        self._budget = tokens_per_forward
        self._ranks = ranks
        self._shard = shard
        self._sum = GradientSum(self._parameters, ranks)

    def step(self, groups: Sequence[TrajectoryGroup]) -> dict[str, float] | SkippedUpdate:
        """Makes one update, skipped if its loss or gradient is not finite. The loss is the mean of
        -log q over the policy's tokens, including stops."""
        self._optimizer.zero_grad(set_to_none=True)
        tokens = sum(int((~t.tool_mask).sum()) + 1 for g in groups for t in g.trajectories)
        # The likelihood of a z is its own, so a query that is too large is simply several.
        small = [part for group in groups for part in parts(group, self._budget)]
        chunked = list(chunks(small, self._budget))
        sizes = [sum(len(group.trajectories) for group in chunk) for chunk in chunked]
        ends = list(accumulate(sizes))

        one = [Passes(learned=1)] * len(chunked)
        first = TrajectoryGroup(groups[0].prompt_ids, groups[0].trajectories[:1])
        idle = partial(self._log_q, [first])
        lockstep = Lockstep(one, self._ranks, idle) if self._shard else FREE

        def learn(index: int, summed: Tensor) -> None:
            whole = self._log_q(chunked[index])
            lockstep.before_graph()
            loss = -whole.sum() / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            lockstep.after_backward()
            summed[0] = loss.detach()
            summed[1:][ends[index] - sizes[index] : ends[index]] = whole.detach()

        summed = self._sum.over(len(chunked), 1 + ends[-1], learn, lockstep)
        total = float(summed[0])
        try:
            norm = optimizer_step(
                self._optimizer, self._parameters, self._max_grad_norm, {"the loss": total}
            )
        except FloatingPointError as error:
            return SkippedUpdate(str(error), {"log_q": summed[1:].double().cpu().numpy()})
        return {"loss": total, "grad_norm": norm, "tokens": float(tokens)}

    def _log_q(self, groups: Sequence[TrajectoryGroup]) -> Tensor:
        return log_q(self._model, groups, self._support, self._masks).log_q

    def state(self) -> State:
        """Copies of everything later updates depend on, including the policy's parameters."""
        return read_training_state(self._optimizer)

    def restore(self, state: State) -> None:
        """Restores what state() returned; the settings must be the same."""
        write_training_state(self._optimizer, state)
