"""The linear layers of a model that `policy.lora_targets` names.

PEFT and vLLM match them by the last part of a module's name. A run resolves them once, before
anything starts, so that policy, engine, saved adapters and config.toml agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gfn_ray.config import PolicyConfig
from gfn_ray.config.sections import ALL_LINEAR
from gfn_ray.errors import UserError, cut
from gfn_ray.models.loading import is_linear, skeleton

# Characters; a model repeats its layers' names, so there are a few tens at most.
_LONGEST_LIST = 400


def with_layer_names(policy: PolicyConfig, path: str, trust_remote_code: bool) -> PolicyConfig:
    """Returns the settings with the names of a resolved model's layers; reads no weights.

    Raises UserError as `layer_names` does.
    """
    names = layer_names(skeleton(path, trust_remote_code), policy.lora_targets)
    return policy.model_copy(update={"lora_targets": names})


def layer_names(model: Any, asked: Sequence[str]) -> tuple[str, ...]:
    """Returns the names asked for, or those that `all-linear` stands for, in the model's order.

    Raises UserError for a name that is not a linear layer; the message lists those there are.
    """
    head = model.get_output_embeddings()
    linear, others, own = set(), set(), dict[str, None]()
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        if not is_linear(module):
            others.add(last)
            continue
        linear.add(last)
        if module is not head:
            own[last] = None
    if ALL_LINEAR in asked:
        return tuple(own)
    for name in asked:
        if name not in linear or name in others:
            fault = "is not a linear layer of" if name in others else "is not in"
            raise UserError(
                f"policy.lora_targets names {name!r}, which {fault} this model, a "
                f"{type(model).__name__}; its linear layers are "
                f"{cut(', '.join(own), _LONGEST_LIST)}: give some of those, or {ALL_LINEAR}"
            )
    return tuple(asked)
