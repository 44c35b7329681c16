"""One group of trajectories that is too large for one forward pass.

A loss compares all of a query's trajectories, so their forward passes cannot simply be taken apart.
log q of each part is computed twice instead: first without a graph, for the loss of the whole group
and its gradient in log q; then with one, part by part, to carry that gradient on to the weights.
The sum is the gradient of the whole group; memory is that of a part, and time one more forward pass
(the gradient cache of Gao et al. 2021). Owns the parts and that way; no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from gfn_ray.policy.log_q import LogQ, TrajectoryGroup

Forward = Callable[[TrajectoryGroup], LogQ]


def parts(group: TrajectoryGroup, budget: int) -> list[TrajectoryGroup]:
    """Runs of the group's trajectories, each within a token budget with the prompt; a trajectory
    that is longer goes alone."""
    found: list[TrajectoryGroup] = []
    for trajectory in group.trajectories:
        if found and found[-1].packed_tokens + len(trajectory) <= budget:
            found[-1].trajectories.append(trajectory)
        else:
            found.append(TrajectoryGroup(group.prompt_ids, [trajectory]))
    return found


@torch.no_grad()
def log_q_in_parts(forward: Forward, split: Sequence[TrajectoryGroup]) -> LogQ:
    """log q of the group whose parts these are, without a graph."""
    found = [forward(part) for part in split]
    longest = max(one.log_pf.shape[1] for one in found)

    def together(tensors: Sequence[Tensor], width: int) -> Tensor:
        return torch.cat([functional.pad(one, (0, width - one.shape[1])) for one in tensors])

    return LogQ(
        together([one.log_pf for one in found], longest),
        together([one.log_stop for one in found], longest + 1),
        together([one.terminable for one in found], longest + 1),
        torch.cat([one.group for one in found]),
        together([one.by_policy for one in found], longest),
        torch.cat([one.lengths for one in found]),
    )


def as_leaves(q: LogQ) -> LogQ:
    """The same, where a backward pass leaves its gradient."""
    return replace(q, log_pf=q.log_pf.requires_grad_(), log_stop=q.log_stop.requires_grad_())


def carry_on(forward: Forward, split: Sequence[TrajectoryGroup], q: LogQ) -> None:
    """Adds to the weights' gradients what the backward pass of the group's loss has left in q."""
    assert q.log_pf.grad is not None and q.log_stop.grad is not None
    row = 0
    for part in split:
        own = forward(part)
        rows, width = slice(row, row + len(own.log_pf)), own.log_pf.shape[1]
        torch.autograd.backward(
            [own.log_pf, own.log_stop],
            [q.log_pf.grad[rows, :width], q.log_stop.grad[rows, : width + 1]],
        )
        row = rows.stop
