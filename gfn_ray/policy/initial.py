"""The adapter that a policy starts from, where that is not a new one.

Owns what is refused of it: another rank, scale or set of layers than the settings give the
policy, another kind of LoRA than it is made of, another base model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gfn_ray.config import JobConfig, PolicyConfig
from gfn_ray.errors import UserError
from gfn_ray.models.adapter_files import check_fits
from gfn_ray.models.loading import linear_layers
from gfn_ray.models.merged import is_merged
from gfn_ray.policy.adapter import Adapter, load_adapter

# Of PEFT's settings: what a policy's own adapter has none of.
_PLAIN = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")


def check_initial(config: JobConfig, model: str) -> None:
    """Raises UserError where `init_adapter` holds no whole adapter, or one that this run's policy
    cannot be.

    model: the resolved model that learner and sampler load.
    """
    directory = config.init_adapter
    if directory is None:
        return
    adapter = load_adapter(directory)
    _check_base(directory, adapter.config.get("base_model_name_or_path"), model)
    for fault in _differences(adapter, config.policy):
        raise UserError(f"init_adapter got {directory}, {fault}")
    shapes = {name: array.shape for name, array in adapter.tensors.items()}
    check_fits(directory, shapes, linear_layers(model, config.model.trust_remote_code), model)


def _check_base(directory: Path, made_for: str | None, model: str) -> None:
    """By the last part: a model's directory has another parent on another machine, and a merged
    one, which is named by the times of its files, another name."""
    if made_for is None or Path(made_for).name == Path(model).name:
        return
    if is_merged(made_for) and is_merged(model) and not Path(made_for).is_dir():
        return
    raise UserError(
        f"init_adapter got {directory}, which was trained on {made_for}, and the base of this run "
        f"is {model}; give that one as --model.name, with --task.base-adapter where its run had "
        "one, or with --tune-base.steps 0 where its base was not tuned"
    )


def _differences(adapter: Adapter, policy: PolicyConfig) -> Iterator[str]:
    found = adapter.config
    for name in _PLAIN:
        if found.get(name):
            yield f"whose {name} is {found[name]!r}, and no policy here has one; give a plain LoRA"
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
    """Last parts of the names of the layers that have tensors."""
    return tuple(sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in tensors}))


def _words(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
