"""A learner without a model and samplers without engines, for the way of weights between them.

Small imports only: every one of them becomes an actor's process.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from gfn_ray.models.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from gfn_ray.policy.adapter import Adapter, write_adapter
from gfn_ray.policy.flat_tensors import FlatTensors

CONFIG = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "lora_alpha": 32.0}


@dataclass(frozen=True)
class Shape:
    """Of a Llama-like model and a LoRA on all its linear layers. narrow: outputs of k and v."""

    layers: int
    hidden: int
    narrow: int
    inner: int
    rank: int

    def parameters(self) -> int:
        """Of the adapter: rank * (inputs + outputs) of every linear layer."""
        attention = 4 * self.hidden + 2 * (self.hidden + self.narrow)
        mlp = 3 * (self.hidden + self.inner)
        return self.layers * self.rank * (attention + mlp)

    def tensors(self) -> dict[str, np.ndarray]:
        """Random A and B by PEFT's names, float32."""
        rng = np.random.default_rng(0)
        h, n, i = self.hidden, self.narrow, self.inner
        linears = {
            "self_attn.q_proj": (h, h),
            "self_attn.k_proj": (h, n),
            "self_attn.v_proj": (h, n),
            "self_attn.o_proj": (h, h),
            "mlp.gate_proj": (h, i),
            "mlp.up_proj": (h, i),
            "mlp.down_proj": (i, h),
        }
        found = {}
        for layer in range(self.layers):
            for name, (inputs, outputs) in linears.items():
                stem = f"base_model.model.model.layers.{layer}.{name}"
                found[f"{stem}.lora_A.weight"] = rng.random((self.rank, inputs), dtype=np.float32)
                found[f"{stem}.lora_B.weight"] = rng.random((outputs, self.rank), dtype=np.float32)
        return found


class Learner:
    """Publishes its tensors, in either way."""

    def __init__(self, shape: Shape) -> None:
        self._tensors = {name: torch.from_numpy(a) for name, a in shape.tensors().items()}
        self._version = 0

    def publish(self) -> Adapter:
        return self._adapter()

    def write(self, directory: str) -> None:
        write_adapter(self._adapter(), Path(directory))

    def _adapter(self) -> Adapter:
        self._version += 1
        return Adapter(self._version, CONFIG, FlatTensors.of(self._tensors, "float32"))


class Reader:
    """A sampler without an engine: takes the newest adapter and has it as tensors of its own. Both
    ways return how many numbers it got."""

    def receive(self, adapter: Adapter) -> int:
        tensors = adapter.tensors
        return self._own({name: torch.from_numpy(a.copy()) for name, a in tensors.items()})

    def read(self, directory: str) -> int:
        json.loads(Path(directory, CONFIG_FILE).read_text())
        # Copies: what is loaded lies in the file until it is looked at.
        found = load_file(Path(directory, WEIGHTS_FILE))
        return self._own({name: tensor.clone() for name, tensor in found.items()})

    def _own(self, tensors: dict[str, torch.Tensor]) -> int:
        self._tensors = tensors
        return sum(tensor.numel() for tensor in tensors.values())
