"""The LoRA adapter: added to a base model, read out as plain arrays, saved as PEFT files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gfn_ray.config import PolicyConfig
from gfn_ray.errors import UserError
from gfn_ray.models.adapter_files import CONFIG_FILE, WEIGHTS_FILE, check_adapter
from gfn_ray.models.lora_targets import layer_names
from gfn_ray.models.peft_weights import put_weights
from gfn_ray.policy.flat_tensors import FlatTensors
from gfn_ray.seeds import Stream, number, seed_of


@dataclass(frozen=True)
class Adapter:
    """One published version of the policy's weights.

    tensors: PEFT's names to float32 arrays; one buffer, if `read_adapter` made them. config:
    PEFT's LoRA settings, JSON-ready. Version 0 is the untrained adapter (B = 0), which equals the
    base model.
    """

    version: int
    config: dict[str, Any]
    tensors: Mapping[str, npt.NDArray[np.float32]]

    def without_effect(self) -> Adapter:
        """Returns an adapter of the same shape that leaves the base model unchanged."""
        nothing = {name: np.zeros_like(array) for name, array in self.tensors.items()}
        return replace(self, tensors=nothing)


def add_adapter(
    model: Any, config: PolicyConfig, seed: int, stream: Stream = Stream.POLICY_ADAPTER
) -> Any:
    """Returns the model with a new LoRA adapter, whose weights alone get gradients.

    stream: the adapter's purpose; different ones start with different weights for the same seed.
    Raises UserError if the model lacks a target layer.
    """
    from peft import LoraConfig, get_peft_model

    from gfn_ray.policy.lora_linear import LoraLinear

    targets = layer_names(model, config.lora_targets)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules=list(targets),
        task_type="CAUSAL_LM",
    )
    if not getattr(model, "is_quantized", False):  # PEFT has its own for those
        lora._register_custom_module({torch.nn.Linear: LoraLinear})
    torch.manual_seed(number(seed_of(stream, seed)))
    return get_peft_model(model, lora)


def read_adapter(peft_model: Any, version: int, dtype: str = "float32") -> Adapter:
    """Returns a copy of the adapter's current weights, safe to pass to another process.

    dtype: "float32", or "bfloat16" for an engine that would round to it anyway.
    """
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(
        peft_model,
        save_embedding_layers=False,  # "auto" would query the model hub at every version
    )
    config = peft_model.peft_config["default"].to_dict()
    plain = {key: _plain(value) for key, value in config.items()}
    return Adapter(version, plain, FlatTensors.of(tensors, dtype))


def put_adapter(peft_model: Any, adapter: Adapter) -> None:
    """Loads the weights of an adapter into a model that has one of the same shape.

    Raises UserError if their layers or rank differ.
    """
    tensors = {name: torch.from_numpy(array) for name, array in adapter.tensors.items()}
    try:
        put_weights(peft_model, tensors)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"an adapter does not fit the model: {reason}") from error


def write_adapter(adapter: Adapter, directory: Path) -> None:
    """Writes the two files under the names that PEFT and vLLM look for.

    Raises OSError if they cannot be written.
    """
    from safetensors.numpy import save

    # Not save_file, which reports a full disk with its own kind of exception.
    (directory / WEIGHTS_FILE).write_bytes(save(dict(adapter.tensors)))
    (directory / CONFIG_FILE).write_text(json.dumps(adapter.config, indent=2))


def load_adapter(directory: Path) -> Adapter:
    """Returns the adapter that `write_adapter` wrote, as version 0.

    Raises UserError if a file is missing or torn, or if the two belong to different adapters.
    """
    from safetensors.numpy import load_file

    config, _ = check_adapter(directory, "the adapter")
    try:
        tensors = load_file(directory / WEIGHTS_FILE)
    except KeyError as error:  # a type that numpy lacks
        raise UserError(
            f"{directory / WEIGHTS_FILE} holds tensors of type {error}; expected F32: give "
            "an adapter that a run wrote"
        ) from None
    return Adapter(0, config, tensors)


def _plain(value: Any) -> Any:
    """Converts PEFT's sets and enums, which JSON lacks."""
    if isinstance(value, set | frozenset | tuple):
        return sorted(value)
    if isinstance(value, str):
        return str(getattr(value, "value", value))
    return value
