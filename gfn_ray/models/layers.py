"""The layers of a causal LM: which they are, and whether they keep what their gradients need."""

from __future__ import annotations

from typing import Any

from gfn_ray.errors import UserError


def body_of(causal: Any) -> Any:
    """The model below its output head."""
    return getattr(causal, causal.base_model_prefix)


def decoder_layers(causal: Any) -> list[Any]:
    """The layers that the body applies one after another. Raises UserError if it names none."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    found = [m for m in body_of(causal).modules() if isinstance(m, GradientCheckpointingLayer)]
    if not found:
        raise UserError(
            f"--model.name: {type(causal).__name__} does not mark its layers as transformers does; "
            "leave learner.shard and learner.checkpoint_activations off, or use another model"
        )
    return found


def checkpoint_activations(causal: Any) -> None:
    """Makes layers compute their activations again in the backward pass instead of keeping them.
    The model stays in eval mode, without dropout."""
    layers = decoder_layers(causal)
    causal.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in layers:
        layer.training = True  # the layer's own mark only: what is inside it reads another
