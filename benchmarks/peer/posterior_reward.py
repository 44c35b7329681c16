"""log p(z answer | context) of the frozen LM as a reward function of TRL.

One reward a z, by one padded forward of a batch, as a user of TRL would write it: no prefix is
shared, and prefixes at which z could also have ended are not scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence


class PosteriorReward:
    """frozen: a causal LM."""

    __name__ = "posterior"  # TRL reports a reward under its function's name

    def __init__(self, frozen: Any) -> None:
        self._frozen = frozen

    @torch.no_grad()
    def __call__(
        self,
        *,
        completion_ids: Sequence[Sequence[int]],
        context_ids: Sequence[Sequence[int]],
        answer_ids: Sequence[Sequence[int]],
        **_: Any,
    ) -> list[float]:
        """Nats, for every row."""
        rows = [
            torch.tensor([*context, *z, *answer])
            for context, z, answer in zip(context_ids, completion_ids, answer_ids, strict=True)
        ]
        ids = pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        shortest = min(len(context) for context in context_ids)
        logits = self._frozen(
            input_ids=ids,
            attention_mask=mask.long(),
            logits_to_keep=ids.shape[1] - shortest + 1,  # from where the first z is predicted
        ).logits[:, :-1]
        log_probs = -torch.nn.functional.cross_entropy(
            logits.float().transpose(1, 2), ids[:, shortest:], reduction="none"
        )
        starts = torch.tensor([len(context) for context in context_ids])
        places = torch.arange(shortest, ids.shape[1])
        scored = (places >= starts[:, None]) & mask[:, shortest:]
        return (log_probs * scored).sum(dim=1).tolist()
