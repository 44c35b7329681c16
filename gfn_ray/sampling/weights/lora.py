"""Swaps a new adapter version into a running vLLM engine, avoiding its stale caches.

vLLM keys its prefix cache by the adapter's name, keeps old weights if a known id comes with a new
path, folds alpha/r into the given tensors, and silently ignores tensors without a matching layer.
So each version gets a new name, the prefix cache is reset after each swap, tensors are copied, and
every name is checked before anything is replaced.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import vllm
from vllm.lora.request import LoRARequest

from gfn_ray.config import PolicyConfig
from gfn_ray.formatting import count
from gfn_ray.policy.adapter import Adapter, write_adapter
from gfn_ray.sampling import cpu_workers
from gfn_ray.sampling.weights.swap import (
    TESTED_VERSIONS,
    ask_workers,
    forget_prefixes,
    own_tensors,
)

EXTENSION = "gfn_ray.sampling.weights.lora.AdapterExtension"

cpu_workers.prepare()  # here, as vLLM imports this module in each worker


class AdapterExtension:
    """Worker-side half of the in-memory swap; vLLM mixes it into its worker class."""

    model_runner: Any

    def replace_adapter(
        self, lora_id: int, config: dict[str, Any], tensors: dict[str, torch.Tensor]
    ) -> str | None:
        """Returns None, or, with the old adapter still live, which of its layers the engine
        lacks."""
        from vllm.lora.peft_helper import PEFTHelper

        manager = self.model_runner.lora_manager
        adapters = manager._adapter_manager
        helper = PEFTHelper.from_dict(config)
        helper.validate_legal(manager.lora_config)
        mapper = getattr(adapters.model, "hf_to_vllm_mapper", None)
        lora = manager._lora_model_cls.from_lora_tensors(
            lora_model_id=lora_id,
            tensors=tensors,
            peft_helper=helper,
            device="cpu",
            dtype=manager.lora_config.lora_dtype,
            model_vocab_size=manager.vocab_size,
            weights_mapper=mapper.get_rename_mapper() if mapper is not None else None,
        )
        parts = (name for packed in adapters.packed_modules.values() for name in packed)
        lost = sorted(lora.loras.keys() - adapters.modules.keys() - set(parts))
        if lost:
            return (
                f"the adapter has weights for {count(len(lora.loras), 'layer')}, but the sampling "
                f"engine has no layer {lost[0]!r}, so {len(lost)} would be ignored; leave "
                f"{lost[0].rsplit('.', 1)[-1]} out of policy.lora_targets, or report the model"
            )
        adapters.remove_adapter(lora_id)
        adapters.add_adapter(lora)
        adapters.activate_adapter(lora_id)
        return None


class AdapterSwap:
    """Loads policy versions into one engine with one LoRA slot; see `WeightSwap`."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        in_memory = vllm.__version__.startswith(TESTED_VERSIONS)
        self._load: Callable[[Adapter], LoRARequest] = (
            self.load_in_memory if in_memory else self.load_from_files
        )
        self._files: tempfile.TemporaryDirectory[str] | None = None

    @staticmethod
    def engine_options(policy: PolicyConfig) -> dict[str, Any]:
        return {
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": policy.lora_rank,
            "lora_target_modules": list(policy.lora_targets),
            "worker_extension_cls": EXTENSION,
        }

    def load(self, adapter: Adapter) -> LoRARequest:
        """Makes the adapter live; every later request must carry the returned object."""
        return self._load(adapter)

    def load_in_memory(self, adapter: Adapter) -> LoRARequest:
        """Uses a private method of vLLM's worker, so only with tested versions."""
        ask_workers(self._llm, "replace_adapter", 1, adapter.config, own_tensors(adapter))
        forget_prefixes(self._llm)
        return LoRARequest(f"policy-v{adapter.version}", 1, "in-memory")

    def load_from_files(self, adapter: Adapter) -> LoRARequest:
        """Uses the public API: a new id, name and path per version; removes old files."""
        files = tempfile.TemporaryDirectory(prefix=f"gfn_ray-policy-v{adapter.version}-")
        write_adapter(adapter, Path(files.name))
        request = LoRARequest(f"policy-v{adapter.version}", adapter.version + 1, files.name)
        self._llm.llm_engine.add_lora(request)
        forget_prefixes(self._llm)
        if self._files is not None:
            self._files.cleanup()
        self._files = files
        return request
