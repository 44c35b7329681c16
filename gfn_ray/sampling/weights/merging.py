"""W = W0 + (alpha / r) B A: a policy version as the full weights of the layers that it changes.

Owns the choice of a checkpoint's tensors, their checks and the arithmetic. Knows no vLLM.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gfn_ray.errors import UserError
from gfn_ray.models.rounding import stochastically_rounded
from gfn_ray.seeds import Stream, number, seed_of

_PREFIX = "base_model.model."
_LORA_A, _LORA_B = ".lora_A.weight", ".lora_B.weight"
# Settings of PEFT under which an adapter is more, or other, than (alpha / r) B A.
_NOT_PLAIN = (
    "use_dora",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "target_parameters",
    "lora_bias",
)


class Checkpoint:
    """Tensors of safetensors files by name, read from the mapped files when asked for."""

    def __init__(self, files: Sequence[Path]) -> None:
        from safetensors import safe_open

        opened = [safe_open(file, framework="pt") for file in files]
        self._file = {name: file for file in opened for name in file.keys()}  # noqa: SIM118

    @property
    def names(self) -> list[str]:
        """Names of all tensors, sorted, so that those of a layer are neighbours."""
        return sorted(self._file)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file[name].get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        found: Tensor = self._file[name].get_tensor(name)
        return found


class Merge:
    """One adapter over one checkpoint, checked when it is made.

    config, tensors: PEFT's. Raises UserError if they are not those of a plain LoRA adapter on
    layers of the checkpoint.
    """

    def __init__(
        self, checkpoint: Checkpoint, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> None:
        if extra := [name for name in _NOT_PLAIN if config.get(name)]:
            raise UserError(
                f"an adapter with {extra[0]} cannot be merged into the engine's weights: "
                "policy.sync merged takes plain LoRA, as a run of gfn_ray trains it"
            )
        self._checkpoint = checkpoint
        self._scale = config["lora_alpha"] / config["r"]
        self._transposed = bool(config.get("fan_in_fan_out"))  # GPT-2's Conv1D: W0 is [in, out]
        layers = [name.removesuffix(_LORA_A) for name in tensors if name.endswith(_LORA_A)]
        if len(tensors) != 2 * len(layers):
            other = next(n for n in tensors if not n.endswith((_LORA_A, _LORA_B)))
            raise UserError(f"an adapter with a tensor {other!r} cannot be merged: it is no LoRA")
        found = _weights_of(layers, set(checkpoint.names))
        self._pairs = {
            name: (tensors[layer + _LORA_A], tensors[layer + _LORA_B])
            for layer, name in zip(layers, found, strict=True)
        }
        for name, (a, b) in self._pairs.items():
            outputs_inputs = (b.shape[0], a.shape[1])
            expected = outputs_inputs[::-1] if self._transposed else outputs_inputs
            if checkpoint.shape(name) != expected:
                raise UserError(
                    f"the adapter changes {name}, of shape {checkpoint.shape(name)}, by a product "
                    f"of shape {expected}; it was trained on another model than model.name"
                )
        parents = {_parent(name) for name in self._pairs}
        self.names = [name for name in checkpoint.names if name.startswith(tuple(parents))]
        """The changed tensors and all others below the same modules: an engine that fuses layers
        needs every part of them, and its fused layers do not reach across modules."""

    def weights(self, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[str, Tensor]]:
        """Yields the merged checkpoint tensors, in order, on the device."""
        # The same for every rank: an unchanged weight stays what it is, and all round alike.
        rng = torch.Generator(device).manual_seed(number(seed_of(Stream.ROUNDING, 0)))
        for name in self.names:
            tensor = self._checkpoint.tensor(name).to(device)
            if name in self._pairs:
                a, b = (factor.to(device, torch.float32) for factor in self._pairs[name])
                tensor = self._sum(tensor.to(dtype), a, b, rng)
            yield name, tensor

    def _sum(self, base: Tensor, a: Tensor, b: Tensor, rng: torch.Generator) -> Tensor:
        """base [out, in], or [in, out] if transposed; a [r, in]; b [out, r]."""
        left, right = (a.T, b.T) if self._transposed else (b, a)
        total = torch.addmm(base.float(), left, right, alpha=self._scale)
        return total if base.dtype == torch.float32 else stochastically_rounded(total, rng)


def _weights_of(layers: Sequence[str], names: set[str]) -> list[str]:
    """The checkpoint's name of the weights of each of PEFT's layers.

    Checkpoints may have been saved from the model without its head, whose names lack the name of
    the body: GPT-2's on the hub have h.0 for transformer.h.0.
    """
    own = [layer.removeprefix(_PREFIX) for layer in layers]
    body = next((name.partition(".")[0] + "." for name in own if "." in name), "")
    for prefix in ("", body):
        found = [f"{name.removeprefix(prefix)}.weight" for name in own]
        if names.issuperset(found):
            return found
    lost = next(name for name in own if f"{name}.weight" not in names)
    raise UserError(
        f"the files of model.name hold no tensor of their own for the layer {lost!r}, which the "
        "adapter changes (it may be tied, fused or quantised there), so it cannot be merged; "
        f"leave {lost.rpartition('.')[2]} out of policy.lora_targets, or set sampler.backend to "
        "transformers"
    )


def _parent(name: str) -> str:
    """Of h.0.attn.c_attn.weight, "h.0.attn."; a layer of the top level is its own parent."""
    module = name.rpartition(".")[0]
    parent, _, _ = module.rpartition(".")
    return f"{parent or module}."
