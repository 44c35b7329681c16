"""Checks of an existing adapter that a policy starts from.

It must match the settings' rank, scale and layers, be a plain LoRA, and belong to this run's base
model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gfn_ray.config import JobConfig, PolicyConfig
from gfn_ray.errors import UserError
from gfn_ray.models.adapter_files import check_fits
from gfn_ray.models.hub import public_name
from gfn_ray.models.loading import linear_layers
from gfn_ray.models.merged import BaseAdapter, is_merged
from gfn_ray.policy.adapter import Adapter, load_adapter

# PEFT's settings that a policy's own adapter never has.
_PLAIN = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")


def check_initial(config: JobConfig, model: str, base: BaseAdapter | None = None) -> None:
    """Raises UserError if `init_adapter` is incomplete or does not fit this run's policy.

    model: the resolved model. base: what learner and sampler merge into it.
    """
    directory = config.init_adapter
    if directory is None:
        return
    adapter = load_adapter(directory)
    loaded = model if base is None else str(base.directory(model))
    _check_base(directory, adapter.config.get("base_model_name_or_path"), loaded)
    for fault in _differences(adapter, config.policy):
        raise UserError(f"init_adapter got {directory}, {fault}")
    shapes = {name: array.shape for name, array in adapter.tensors.items()}
    check_fits(directory, shapes, linear_layers(model, config.model.trust_remote_code), model)


def _check_base(directory: Path, made_for: str | None, model: str) -> None:
    """Compares the last part of the path, because the parent differs between machines. A merged
    model is named by the times of its files, so its name differs, too."""
    if made_for is None or Path(made_for).name == Path(public_name(model)).name:
        return
    if is_merged(made_for) and is_merged(model) and not Path(made_for).is_dir():
        return
    raise UserError(
        f"init_adapter got {directory}, which was trained on {made_for}, and the base of this run "
        f"is {model}; give the former as --model.name, with --task.base-adapter if its run had "
        "one, or with --tune-base.steps 0 if its base was not tuned"
    )


def _differences(adapter: Adapter, policy: PolicyConfig) -> Iterator[str]:
    found = adapter.config
    for name in _PLAIN:
        if found.get(name):
            yield f"whose {name} is {found[name]!r}, which policies do not have; give a plain LoRA"
    for setting, got, wanted in (
        ("lora_rank", found.get("r"), policy.lora_rank),
        ("lora_alpha", found.get("lora_alpha"), policy.lora_alpha),
        ("lora_targets", _layers(adapter.tensors), tuple(sorted(policy.lora_targets))),
    ):
        if got != wanted:
            yield (
                f"which has {_words(got)} for policy.{setting}, and this run {_words(wanted)}; "
                f"set policy.{setting} to the first"
            )


def _layers(tensors: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the last parts of the names of layers that have tensors."""
    return tuple(sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in tensors}))


def _words(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
