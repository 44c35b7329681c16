"""Growing texts under a causal LM: the key-value cache and the padding, one token at a time.

Knows no support: whoever reads the logits decides which tokens count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gfn_ray.trajectory import IntArray


class CachedRows:
    """Rows of texts; initially one per prompt. logits [N, V]: of each row's next token, float32."""

    def __init__(self, model: Any, prompts: Sequence[IntArray]) -> None:
        """model: a transformers causal LM that fills a key-value cache."""
        from transformers import DynamicCache

        self._model = model
        self.device = next(model.parameters()).device
        longest = max(len(prompt) for prompt in prompts)
        ids = np.zeros((len(prompts), longest), dtype=np.int64)
        self._mask = torch.zeros(ids.shape, dtype=torch.long, device=self.device)  # [N, L]
        for row, prompt in enumerate(prompts):  # padded on the left, so that all rows end together
            ids[row, longest - len(prompt) :] = prompt
            self._mask[row, longest - len(prompt) :] = 1
        self._cache = DynamicCache(config=model.config)
        self._read(torch.as_tensor(ids, device=self.device))

    def extend(self, parents: Sequence[int], tokens: Sequence[int]) -> None:
        """Makes row i the text of row parents[i] plus tokens[i]; a row may be extended
        repeatedly."""
        chosen = torch.as_tensor(parents, device=self.device).long()
        for layer in self._cache.layers:  # they may lie on several devices
            layer.batch_select_indices(chosen.to(layer.device))
        self._mask = torch.cat([self._mask[chosen], self._mask.new_ones(len(chosen), 1)], dim=1)
        self._read(torch.as_tensor(tokens, device=self.device).long()[:, None])

    @torch.no_grad()
    def _read(self, ids: Tensor) -> None:
        """Feeds ids [N, K]."""
        positions = (self._mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.logits = output.logits[:, -1].float()
