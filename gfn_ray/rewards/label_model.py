"""p(y | x, z) over a few labels, from a separate LoRA adapter on the frozen LM.

Contains the adapter, its optimizer, and the definition of a label's probability: the LM's
probabilities of the labels' answers, renormalised over the labels. The caller chooses the text
before the answer, with or without a rationale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from gfn_ray.config import PolicyConfig
from gfn_ray.learners.optimizer_step import optimizer_step
from gfn_ray.learners.training_state import State, read_training_state, write_training_state
from gfn_ray.packing.forward import tree_log_probs
from gfn_ray.packing.prefix_tree import ROOT, PrefixTree, shared_length
from gfn_ray.policy.adapter import Adapter, add_adapter, put_adapter, read_adapter
from gfn_ray.seeds import Stream
from gfn_ray.trajectory import IntArray

Array = npt.NDArray[np.float64]

MAX_GRAD_NORM = 1.0


def label_log_probs(
    model: Any, histories: Sequence[IntArray], answers: Sequence[IntArray]
) -> Tensor:
    """Returns log p(label | history) [N, L] from one forward pass; differentiable and normalised.

    answers [L]: tokens of each label's answer. Their common prefix cancels.
    """
    tree = PrefixTree()
    longest = max(map(len, answers))
    paths = []
    for history in histories:
        last = tree.add_path(history, ROOT)[-1]
        paths.append([tree.add_path(answer, last) for answer in answers])
    nodes = np.array([[[*p, *[-1] * (longest - len(p))] for p in row] for row in paths])
    read = np.unique(nodes[nodes >= 0])
    log_prob = tree_log_probs(model, tree, read).log_prob
    # Padding points one past the last node, at an appended zero.
    where = torch.as_tensor(np.where(nodes < 0, len(tree), nodes), device=log_prob.device)
    padded = torch.cat([log_prob, log_prob.new_zeros(1)])
    return torch.log_softmax(padded[where].sum(dim=-1), dim=-1)


class LabelModel:
    """The frozen LM with an adapter used only for p(label | history).

    model: the frozen LM; the adapter is added in place and starts as the identity.
    """

    def __init__(self, model: Any, policy: PolicyConfig, seed: int, tokens_per_forward: int):
        self._policy = policy
        self._seed = seed
        self._budget = tokens_per_forward
        self.model = add_adapter(model, policy, seed, Stream.LABEL_ADAPTER).eval()
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._start = [p.detach().clone() for p in self._parameters]
        self._optimizer: torch.optim.Optimizer | None = None

    def frozen(self) -> AbstractContextManager[Any]:
        """Context in which `model` is the frozen LM alone."""
        context: AbstractContextManager[Any] = self.model.disable_adapter()
        return context

    @torch.no_grad()
    def log_probs(self, histories: Sequence[IntArray], answers: Sequence[IntArray]) -> Array:
        """Returns log p(label | history) [N, L]."""
        parts = [
            label_log_probs(self.model, chunk, answers).double().cpu().numpy()
            for chunk in _chunks(histories, answers, self._budget)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, len(answers)))

    def fit(
        self,
        histories: Sequence[IntArray],
        labels: Sequence[int],
        answers: Sequence[IntArray],
        lr: float,
    ) -> dict[str, float]:
        """Updates once on the cross-entropy of the labels [N] under `label_log_probs`.

        The optimizer's state lasts until `reset`. Raises FloatingPointError, without an update, if
        the loss or gradient is not finite.
        """
        if self._optimizer is None:
            self._optimizer = self._new_optimizer(lr)
        self._optimizer.zero_grad(set_to_none=True)
        total, done = 0.0, 0
        for chunk in _chunks(histories, answers, self._budget):
            log_p = label_log_probs(self.model, chunk, answers)
            wanted = torch.as_tensor(labels[done : done + len(chunk)], device=log_p.device)
            loss = functional.nll_loss(log_p, wanted, reduction="sum") / len(histories)
            loss.backward()
            total, done = total + float(loss.detach()), done + len(chunk)
        try:
            norm = optimizer_step(
                self._optimizer, self._parameters, MAX_GRAD_NORM, {"the loss": total}
            )
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}; lower em.m_lr ({lr:g})") from error
        return {"loss": total, "grad_norm": norm}

    @torch.no_grad()
    def reset(self) -> None:
        """Restores the initial adapter and drops the optimizer."""
        for parameter, start in zip(self._parameters, self._start, strict=True):
            parameter.copy_(start)
        self._optimizer = None

    def read(self) -> Adapter:
        """Returns a copy of the adapter."""
        return read_adapter(self.model, 0)

    def take_over(self, adapter: Adapter) -> None:
        """Loads the weights that `read` returned, from a model with the same settings."""
        put_adapter(self.model, adapter)

    def state(self) -> State:
        """Returns copies of the adapter's and the optimizer's state."""
        optimizer = self._optimizer or self._new_optimizer(lr=0.0)
        rate = None if self._optimizer is None else optimizer.param_groups[0]["lr"]
        return {**read_training_state(optimizer), "lr": rate}

    def restore(self, state: State) -> None:
        """Restores what `state` returned, from a model with the same settings."""
        optimizer = self._new_optimizer(state["lr"] or 0.0)
        write_training_state(optimizer, state)
        self._optimizer = None if state["lr"] is None else optimizer

    def _new_optimizer(self, lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self._parameters, lr=lr, weight_decay=0.0)


def _chunks(
    histories: Sequence[IntArray], answers: Sequence[IntArray], budget: int
) -> Iterator[list[IntArray]]:
    """Yields runs of histories whose packed trees fit a token budget; at least one history each.

    What a history shares with the one before it is counted once.
    """
    after = sum(map(len, answers))
    chunk: list[IntArray] = []
    used = 0
    for history in histories:
        cost = len(history) + after
        saved = shared_length(chunk[-1], history) if chunk else 0
        if chunk and used + cost - saved > budget:
            yield chunk
            chunk, used, saved = [], 0, 0
        chunk.append(history)
        used += cost - saved
    if chunk:
        yield chunk
