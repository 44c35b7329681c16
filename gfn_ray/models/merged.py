"""A base model with a LoRA adapter merged into it: a model directory like any other.

Owns the merge, done once per pair of base and adapter and kept in the cache, and what is
refused as not being an adapter of this base. The paper tunes its base on stories first
and keeps that tuned model as the reward (Hu et al. 2024, section 4.2).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from gfn_ray.errors import UserError
from gfn_ray.models.adapter_files import CONFIG_FILE, WEIGHTS_FILE, check_adapter
from gfn_ray.models.cache import cached_model_dir
from gfn_ray.models.loading import hide_loading_bars, load_causal_lm, load_tokenizer
from gfn_ray.models.peft_weights import put_weights

MERGER_VERSION = 1  # part of the directory's name: raise it when the merge changes
_PREFIX = "merged-"
TUNED = "tuned-"
"""Begins the name of the cached adapter of a base that a run tunes first."""


def merged_model_dir(model: str, adapter: Path, trust_remote_code: bool) -> str:
    """Directory of the resolved model with the adapter merged in, float32, tokenizer included.

    Merged on first use. Raises UserError where the directory holds no PEFT adapter, or one of
    another base.
    """
    _check_adapter(model, adapter)
    digest = hashlib.sha256(repr((MERGER_VERSION, fingerprint(model))).encode())
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        digest.update((adapter / name).read_bytes())
    directory = cached_model_dir(
        f"{_PREFIX}{digest.hexdigest()[:10]}",
        f"the base model with {adapter} merged in",
        sum(file.stat().st_size for file in Path(model).glob("*.safetensors")),
        lambda directory: _merge(model, adapter, directory, trust_remote_code),
    )
    return str(directory)


def fingerprint(model: str) -> object:
    """What tells a resolved model from another, and from an older one in the same directory."""
    where = Path(model)
    files = sorted(where.iterdir()) if where.is_dir() else []
    # A directory may be written anew under its name; its files' times tell.
    return (model, [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files])


def is_merged(model: str) -> bool:
    """Whether a resolved model is one of these directories."""
    return Path(model).name.startswith(_PREFIX)


def _check_adapter(model: str, adapter: Path) -> None:
    if adapter.name.startswith(TUNED) and not adapter.exists():
        raise UserError(
            f"the base adapter {adapter} is gone from the cache, where a run had tuned it; the "
            "same job on the same data and model makes it again, if it is started without "
            "--task.base-adapter and --resume"
        )
    config, _ = check_adapter(adapter, "the base adapter")
    made_for = config.get("base_model_name_or_path")
    # By the last part: a model's directory has another parent on another machine.
    if made_for and Path(made_for).name != Path(model).name:
        raise UserError(
            f"the base adapter {adapter} was made for {made_for}, and the model is {model}; give "
            "that one as --model.name, or another adapter"
        )


def _merge(model: str, adapter: Path, directory: Path, trust_remote_code: bool) -> None:
    from transformers import GenerationConfig

    hide_loading_bars(model)
    base = load_causal_lm(model, "float32", "cpu", trust_remote_code)
    merged = _with_adapter(base, adapter).merge_and_unload(safe_merge=True)
    # Some models ship sampling defaults that transformers reads but refuses to write; no engine
    # of ours goes by them.
    merged.generation_config = GenerationConfig.from_model_config(merged.config)
    merged.save_pretrained(directory)
    load_tokenizer(model, trust_remote_code).save_pretrained(directory)


def _with_adapter(base: Any, adapter: Path) -> Any:
    from peft import PeftConfig, PeftModel
    from safetensors.torch import load_file

    try:
        model = PeftModel(base, PeftConfig.from_pretrained(str(adapter)))
        put_weights(model, load_file(adapter / WEIGHTS_FILE))
    except Exception as error:  # peft, torch and safetensors kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise UserError(
            f"the base adapter {adapter} does not fit the model: {reason[:300].rstrip('.')}; give "
            "an adapter that was trained on it"
        ) from error
    return model
