"""The two files of a LoRA adapter, under the names that PEFT and vLLM look for.

Checks them before anything is loaded: a rank that only the settings name would be allocated all
the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gfn_ray.errors import UserError
from gfn_ray.paths import is_file
from gfn_ray.storage.atomic import COMPLETE, damage

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_PICKLE = "adapter_model.bin"
_LORA_A, _LORA_B = ".lora_A.", ".lora_B."

Shapes = dict[str, tuple[int, ...]]


def check_adapter(directory: Path, called: str) -> tuple[dict[str, Any], Shapes]:
    """Returns an adapter's PEFT settings, and the shapes of its tensors by name.

    called: the adapter in words. Raises UserError if the directory holds no complete LoRA
    adapter, or two files of different ones.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not is_file(directory / name, called):
            if name == WEIGHTS_FILE and (directory / _PICKLE).exists():
                raise UserError(
                    f"{called} {directory} holds {_PICKLE}, a pickle, which could run code and is "
                    f"not read; save the adapter as {WEIGHTS_FILE}, which is peft's default"
                )
            raise UserError(
                f"{called} {directory} holds no {name}; expected a PEFT adapter's directory, such "
                "as the adapter/ of a run"
            )
    if (directory / COMPLETE).exists() and (found := damage(directory)):
        raise UserError(f"{found}; restore it from a copy, or give another adapter")
    config = _config(directory / CONFIG_FILE)
    shapes = _shapes(directory / WEIGHTS_FILE)
    for fault in (*_ranks(config, shapes), *_targets(config, shapes)):
        raise UserError(
            f"{directory / CONFIG_FILE} does not match {WEIGHTS_FILE}: {fault}; give an adapter "
            "whose two files were written together"
        )
    return config, shapes


def check_fits(
    directory: Path, shapes: Shapes, layers: Mapping[str, tuple[int, int]], model: str
) -> None:
    """Raises UserError if an adapter's tensors do not fit a model.

    layers: the model's numbers of outputs and inputs by layer name.
    """
    for name, shape in shapes.items():
        module = name.removeprefix("base_model.model.").split(".lora_")[0]
        if module not in layers or len(shape) != 2:
            fault = f"the model has no linear layer {module}"
        else:
            side, size = (1, "inputs") if _LORA_A in name else (0, "outputs")
            if shape[side] == layers[module][side]:
                continue
            fault = f"{module} has {layers[module][side]} {size}, and the adapter {shape[side]}"
        raise UserError(
            f"the adapter {directory} does not fit the model {model}: {fault}; give the base model "
            "that it was trained on"
        )


def _config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("not a JSON object")
        if config.get("peft_type", "LORA") != "LORA":
            raise ValueError(
                f"its peft_type is {config['peft_type']!r}, and only LORA is supported"
            )
        ranks = [config.get("r"), *dict(config.get("rank_pattern") or {}).values()]
        if not all(type(rank) is int and rank > 0 for rank in ranks):
            raise ValueError("its r is not a whole number above 0")
        base = config.get("base_model_name_or_path")
        if not isinstance(base, str | None):
            raise ValueError(f"its base_model_name_or_path is {base!r}")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"{file} is not a PEFT configuration ({reason}); give another adapter"
        ) from None
    return config


def _shapes(file: Path) -> Shapes:
    """Returns the shapes in the file's header; refuses one that promises more than there is."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            names = tensors.keys()
            shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{file} cannot be read: {str(error)[:200]}; restore it from a copy, or give "
            "another adapter"
        ) from None
    return shapes


def _ranks(config: Mapping[str, Any], shapes: Shapes) -> Iterator[str]:
    named = {config["r"], *(config.get("rank_pattern") or {}).values()}
    found = {shape[0] for name, shape in shapes.items() if _LORA_A in name and len(shape) == 2}
    found |= {shape[1] for name, shape in shapes.items() if _LORA_B in name and len(shape) == 2}
    if not found:
        yield "the tensors do not belong to a LoRA adapter"
    elif max(named) > max(found) or not found <= named:
        yield f"it names rank {max(named)}, and the tensors have rank {max(found)}"


def _targets(config: Mapping[str, Any], shapes: Shapes) -> Iterator[str]:
    targets = config.get("target_modules")
    if not isinstance(targets, list):  # a pattern, or none
        return
    named = {str(target).rsplit(".", 1)[-1] for target in targets}
    for name in shapes:
        layer = name.split(_LORA_A)[0].split(_LORA_B)[0].rsplit(".", 1)[-1]
        if (_LORA_A in name or _LORA_B in name) and layer not in named:
            yield f"its target_modules lack {layer!r}, which has tensors"
