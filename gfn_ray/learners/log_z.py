"""A learned log Z(x): one linear head on the untrained model's features of the prompt.

The features come from the model without its adapter (if it has none, from the model when it first
sees a prompt) and stay fixed, so that the head learns a function of the query, not of a policy that
changes under it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gfn_ray.policy.log_q import TrajectoryGroup


class LogZHead:
    """Predicts log Z of a query from its prompt. Learns with the policy, at its own rate."""

    def __init__(self, model: Any) -> None:
        self._model = model
        reference = next(model.parameters())
        width = model.get_input_embeddings().embedding_dim
        self._head = nn.Linear(width, 1, device=reference.device, dtype=torch.float32)
        nn.init.zeros_(self._head.weight)
        nn.init.zeros_(self._head.bias)
        self._known: dict[bytes, Tensor] = {}
        self.started = False

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self._head.parameters())

    def start_at(self, log_z: float) -> None:
        """Sets the bias to a first estimate: log Z may be far from 0, such as -60."""
        nn.init.constant_(self._head.bias, log_z)
        self.started = True

    def forget_start(self) -> None:
        """Undoes `start_at` after a skipped update."""
        nn.init.zeros_(self._head.bias)
        self.started = False

    def __call__(self, groups: Sequence[TrajectoryGroup]) -> Tensor:
        """log Z of each trajectory's query [B], in the order of the groups."""
        features = torch.stack([self._features(group) for group in groups])
        sizes = torch.tensor([len(group.trajectories) for group in groups])
        return self._head(features)[:, 0].repeat_interleave(sizes.to(features.device))

    @torch.no_grad()
    def _features(self, group: TrajectoryGroup) -> Tensor:
        """The last hidden state of a prompt [width], scaled to length 1."""
        key = group.prompt_ids.tobytes()
        if key not in self._known:
            ids = torch.as_tensor(group.prompt_ids, device=self._head.weight.device).long()
            untrained = getattr(self._model, "disable_adapter", nullcontext)
            with untrained():
                output = self._model(ids[None], output_hidden_states=True, use_cache=False)
            last = output.hidden_states[-1][0, -1].float()
            self._known[key] = last / last.norm()
        return self._known[key]
