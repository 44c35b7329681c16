"""Likelihood tuning of an adapter on whole texts: the base of a task, before any posterior.

Plain language modelling: every token after the first is predicted from those before it, with no
support and no terminator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from gfn_ray.learners.optimizer_step import optimizer_step
from gfn_ray.trajectory import IntArray

UNSCORED = -100  # label of padding


class TextTuner:
    """Maximises the likelihood of given texts.

    model: a causal LM whose trainable parameters are an adapter's, as `add_adapter` leaves it.
    """

    def __init__(self, model: Any, *, lr: float, max_grad_norm: float) -> None:
        self._model = model.eval()
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=lr, weight_decay=0.0)
        self._max_grad_norm = max_grad_norm

    def step(self, texts: Sequence[IntArray]) -> dict[str, float]:
        """Makes one update; its loss is the mean of -log p over predicted tokens, in nats.

        Raises FloatingPointError, and changes nothing, if its loss or gradient is not finite.
        """
        self._optimizer.zero_grad(set_to_none=True)
        total, tokens = negative_log_likelihood(self._model, texts)
        loss = total / tokens
        loss.backward()
        value = float(loss.detach())
        norm = optimizer_step(
            self._optimizer, self._parameters, self._max_grad_norm, {"the loss": value}
        )
        return {"loss": value, "grad_norm": norm, "tokens": float(tokens)}


def negative_log_likelihood(model: Any, texts: Sequence[IntArray]) -> tuple[Tensor, int]:
    """Returns the sum of -log p over predicted tokens, in nats, and their number.

    texts: token ids, at least two each; the first of each has no history and is not predicted.
    """
    device = next(model.parameters()).device
    rows = [torch.as_tensor(text, dtype=torch.long) for text in texts]
    lengths = torch.tensor([len(row) for row in rows])
    ids = pad_sequence(rows, batch_first=True)  # [B, T]
    real = torch.arange(ids.shape[1]) < lengths[:, None]
    labels = ids.masked_fill(~real, UNSCORED)[:, 1:].to(device)
    # Pad on the right, where causal attention hides it from every real token.
    output = model(input_ids=ids.to(device), attention_mask=real.long().to(device), use_cache=False)
    logits = output.logits[:, :-1].float()  # [B, T-1, V]
    total = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=UNSCORED, reduction="sum"
    )
    return total, int(lengths.sum()) - len(rows)


@torch.no_grad()
def perplexity(model: Any, texts: Sequence[IntArray], batch: int) -> float:
    """exp of the mean -log p per predicted token, over all texts together.

    Raises FloatingPointError if it is not finite.
    """
    total, tokens = 0.0, 0
    for start in range(0, len(texts), batch):
        part, count = negative_log_likelihood(model, texts[start : start + batch])
        total, tokens = total + float(part), tokens + count
    found = float(torch.tensor(total / tokens, dtype=torch.float64).exp())
    if not math.isfinite(found):
        raise FloatingPointError(f"the perplexity is {found}")
    return found
