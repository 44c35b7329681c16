"""Brings a policy version into a vLLM engine without LoRA: as merged weights, in place.

For models that vLLM has no LoRA for. vLLM's own `reload_weights` restores the form in which
a layer is loaded, loads, and packs the result into the old storage, sharding included. It leaves
uninitialised memory in a layer of which it is given a part, so layers are given whole, and that
is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from gfn_ray.config import PolicyConfig
from gfn_ray.errors import UserError
from gfn_ray.policy.adapter import Adapter
from gfn_ray.sampling import cpu_workers
from gfn_ray.sampling.weights.merging import Checkpoint, Merge
from gfn_ray.sampling.weights.swap import ask_workers, forget_prefixes, own_tensors

EXTENSION = "gfn_ray.sampling.weights.merged.MergedExtension"

cpu_workers.prepare()  # here, as vLLM imports this module in each worker


class MergedExtension:
    """Worker-side half; vLLM mixes it into its worker class."""

    model_runner: Any
    vllm_config: Any
    device: torch.device
    reload_weights: Any
    _checkpoint: Checkpoint

    def open_checkpoint(self) -> None:
        """Maps the files that the engine has loaded."""
        from vllm.model_executor.model_loader import get_model_loader

        loader: Any = get_model_loader(self.vllm_config.load_config)
        model = self.vllm_config.model_config
        _, files, *_ = loader._prepare_weights(
            model.model, None, model.revision, fall_back_to_pt=False, allow_patterns_overrides=None
        )
        self._checkpoint = Checkpoint([Path(file) for file in files])

    def merge_adapter(self, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> str | None:
        """Returns why it refuses, with the old weights still live, or None."""
        try:
            merge = Merge(self._checkpoint, config, tensors)
        except UserError as refusal:
            return str(refusal)
        weights = merge.weights(self.vllm_config.model_config.dtype, self.device)
        self.reload_weights(weights_iterator=self._whole(weights), is_checkpoint_format=True)
        return None

    def _whole(
        self, weights: Iterable[tuple[str, torch.Tensor]]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Passes the tensors on. After the last, raises RuntimeError if a layer lacks some."""
        from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
        from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

        yield from weights
        for name, layer in self.model_runner.get_model().named_modules():
            info = get_layerwise_info(layer)
            # The rows that pad a vocabulary are in no checkpoint.
            padded = isinstance(layer, VocabParallelEmbedding)
            if info.can_load() and not padded and 0 < info.load_numel < info.load_numel_total:
                raise RuntimeError(
                    f"vLLM's layer {name} is made of more tensors than lie below one module, so "
                    "this model cannot take merged weights; set sampler.backend to transformers"
                )


class MergedSwap:
    """Loads policy versions into one engine; see `WeightSwap`."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        ask_workers(llm, "open_checkpoint")

    @staticmethod
    def engine_options(policy: PolicyConfig) -> dict[str, Any]:
        return {"worker_extension_cls": EXTENSION}

    def load(self, adapter: Adapter) -> None:
        """Writes the version's weights over those before."""
        ask_workers(self._llm, "merge_adapter", adapter.config, own_tensors(adapter))
        forget_prefixes(self._llm)
