"""Log-probabilities from a model's last hidden states, a few rows of logits at a time.

Logits are the largest tensors of a language model: 49,152 numbers per token even for a small one.
This module avoids keeping them, for gradients too, and avoids computing those that the support
forbids everywhere. It reads log p(token), and log p(stop) summed over all stop tokens, both
renormalised under the support.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Rows of logits at a time: few enough for a CPU's cache, many enough for a matrix product. A GPU
# needs more: with 512, an update of a 1B model is a tenth faster there than with 128.
ROWS, ROWS_OF_A_GPU = 128, 512


@dataclass(frozen=True)
class Reads:
    """What to read from R rows of logits [R, V].

    picked_rows, picked_tokens [P]: log p(token) of these tokens in these rows. stop_rows [S]: log
    p(stop) in these rows, stop being any of stop_ids [N]. kinds [R]: each row's index into
    legal [M, V], the legal tokens; without legal, all tokens are.
    """

    picked_rows: Tensor
    picked_tokens: Tensor
    stop_rows: Tensor
    stop_ids: Tensor
    kinds: Tensor | None = None
    legal: Tensor | None = None

    def log_softmax(self, logits: Tensor, first: int = 0) -> Tensor:
        """Renormalises under the support, in float32 or wider. logits: rows from `first` on."""
        if logits.dtype != torch.float64:
            logits = logits.float()
        if self.legal is not None and self.kinds is not None:
            legal = self.legal[self.kinds[first : first + len(logits)]]
            # The lowest finite float, not -inf: gradients of an all-masked row stay finite.
            logits = logits.masked_fill(~legal, torch.finfo(logits.dtype).min)
        return torch.log_softmax(logits, dim=-1)


def read_logits(logits: Tensor, reads: Reads) -> tuple[Tensor, Tensor]:
    """Returns log p of the picked tokens [P] and of stopping [S]; differentiable."""
    log_p = reads.log_softmax(logits)
    stops = log_p[reads.stop_rows][:, reads.stop_ids]
    return log_p[reads.picked_rows, reads.picked_tokens], torch.logsumexp(stops, dim=-1)


def read_hidden(hidden: Tensor, head: Any, reads: Reads) -> tuple[Tensor, Tensor]:
    """The same from hidden states [R, H] and a linear head, differentiable in the hidden states.

    Uses memory for a few rows of logits and, with a gradient, for another [R, H].
    """
    picked: Tensor
    stop: Tensor
    weight, bias, reads = _legal_only(head.weight, head.bias, reads)
    picked, stop = _ReadHidden.apply(hidden, weight, bias, reads)  # type: ignore[no-untyped-call]
    return picked, stop


def _legal_only(
    weight: Tensor, bias: Tensor | None, reads: Reads
) -> tuple[Tensor, Tensor | None, Reads]:
    """Returns the rows of the head [U, H] that the support allows anywhere or that are read, and
    what to read from their logits; all rows if these are at least half of them."""
    if reads.legal is None:
        return weight, bias, reads
    kept = reads.legal.any(dim=0)
    kept[reads.picked_tokens] = kept[reads.stop_ids] = True
    tokens = kept.nonzero()[:, 0]
    if 2 * len(tokens) >= len(weight):
        return weight, bias, reads
    place = torch.cumsum(kept, dim=0) - 1
    of_tokens = replace(
        reads,
        picked_tokens=place[reads.picked_tokens],
        stop_ids=place[reads.stop_ids],
        legal=reads.legal[:, tokens],
    )
    return weight[tokens], None if bias is None else bias[tokens], of_tokens


class _ReadHidden(torch.autograd.Function):
    """The gradient of log p(v) = w_v h - log sum_u exp(w_u h) in h is w_v - sum_u p(u) w_u. The
    second term costs one more product in the forward pass, and only its result is kept."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, reads: Reads
    ) -> tuple[Tensor, Tensor]:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        picked = hidden.new_empty(len(reads.picked_rows), dtype=wide)
        stop = hidden.new_empty(len(reads.stop_rows), dtype=wide)
        expected = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        expected_stop = (
            hidden.new_empty(len(stop), hidden.shape[1]) if expected is not None else None
        )
        size = ROWS_OF_A_GPU if hidden.is_cuda else ROWS
        for first, picks, stops in _chunks(len(hidden), size, reads):
            rows = slice(first, first + size)
            log_p = reads.log_softmax(F.linear(hidden[rows], weight, bias), first)
            picked[picks] = log_p[reads.picked_rows[picks] - first, reads.picked_tokens[picks]]
            stop_log_p = log_p[reads.stop_rows[stops] - first][:, reads.stop_ids]
            stop[stops] = torch.logsumexp(stop_log_p, dim=-1)
            if expected is not None and expected_stop is not None:
                shares = torch.softmax(stop_log_p, dim=-1).to(weight.dtype)
                expected_stop[stops] = shares @ weight[reads.stop_ids]
                expected[rows] = log_p.exp_().to(weight.dtype) @ weight
        ctx.reads = reads
        ctx.save_for_backward(weight, expected, expected_stop)
        return picked, stop

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_picked: Tensor, of_stop: Tensor) -> tuple[Tensor | None, ...]:
        weight, expected, expected_stop = ctx.saved_tensors
        reads = ctx.reads
        per_pick = weight[reads.picked_tokens] - expected[reads.picked_rows]
        per_stop = expected_stop - expected[reads.stop_rows]
        gradient = torch.zeros_like(expected, dtype=of_picked.dtype)
        gradient.index_add_(0, reads.picked_rows, of_picked[:, None] * per_pick)
        gradient.index_add_(0, reads.stop_rows, of_stop[:, None] * per_stop)
        return gradient.to(expected.dtype), None, None, None


def _chunks(rows: int, size: int, reads: Reads) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yields the first row of each chunk, and the picks and stops that are read from it."""
    for first in range(0, rows, size):
        picks, stops = (
            ((where >= first) & (where < first + size)).nonzero()[:, 0]
            for where in (reads.picked_rows, reads.stop_rows)
        )
        yield first, picks, stops
