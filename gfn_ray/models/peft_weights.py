"""Loads an adapter's tensors into a PEFT model, all of them and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def put_weights(peft_model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Sets the weights of the model's adapter, by PEFT's names.

    Raises ValueError, or torch's RuntimeError for shapes, if they do not fit the adapter.
    """
    from peft import set_peft_model_state_dict

    result = set_peft_model_state_dict(peft_model, dict(tensors))
    # peft ignores tensors for layers that the model lacks, and layers without a tensor.
    missing = [name for name in result.missing_keys if ".lora_" in name]
    for what, names in (("lacks tensors for", missing), ("has", result.unexpected_keys)):
        if names:
            raise ValueError(f"it {what} {names[0]}")
