"""A base model with a LoRA adapter merged into it: a model directory like any other.

Merges each pair of base and adapter once, keeps it in the cache, and refuses adapters of another
base. The paper first tunes its base on stories and uses the tuned model as the reward
(Hu et al. 2024, section 4.2).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gfn_ray.errors import UserError
from gfn_ray.models.adapter_files import CONFIG_FILE, WEIGHTS_FILE, check_adapter
from gfn_ray.models.cache import cached_model_dir, models_dir
from gfn_ray.models.hub import commit_of, public_name
from gfn_ray.models.loading import (
    file_dtype,
    hide_loading_bars,
    load_causal_lm,
    load_tokenizer,
)
from gfn_ray.models.peft_weights import put_weights
from gfn_ray.models.rounding import stochastically_rounded
from gfn_ray.seeds import Stream, number, seed_of

MERGER_VERSION = 2  # part of the directory's name: raise it when the merge changes
_PREFIX = "merged-"
TUNED = "tuned-"
"""Prefix of the cached adapter of a base model that a run tunes first."""


@dataclass(frozen=True)
class BaseAdapter:
    """An adapter to merge into a base model, by its files' contents: whoever loads the model makes
    the merge on its own machine, where the adapter's directory may be missing.

    path: names it in errors.
    """

    path: Path
    config: bytes
    weights: bytes

    @staticmethod
    def read(path: Path, model: str) -> BaseAdapter:
        """Raises UserError if the directory holds no PEFT adapter, or one of another base."""
        _check_adapter(model, path)
        return BaseAdapter(
            path, (path / CONFIG_FILE).read_bytes(), (path / WEIGHTS_FILE).read_bytes()
        )

    def directory(self, model: str) -> Path:
        """Where the merge of a resolved model is, or will be."""
        digest = hashlib.sha256(repr((MERGER_VERSION, fingerprint(model))).encode())
        digest.update(self.config)
        digest.update(self.weights)
        return models_dir() / f"{_PREFIX}{digest.hexdigest()[:10]}"

    def merged_into(self, model: str, trust_remote_code: bool) -> str:
        """Returns that directory, in the precision of the model's files, with its tokenizer. Merged
        on first use."""
        directory = cached_model_dir(
            self.directory(model).name,
            f"the base model with {self.path} merged in",
            sum(file.stat().st_size for file in Path(model).glob("*.safetensors")),
            lambda directory: self._merge(model, directory, trust_remote_code),
        )
        return str(directory)

    def _merge(self, model: str, directory: Path, trust_remote_code: bool) -> None:
        from transformers import GenerationConfig

        hide_loading_bars(model)
        precision = file_dtype(model, trust_remote_code)
        base = load_causal_lm(model, "float32", "cpu", trust_remote_code)
        merged = self._applied_to(base).merge_and_unload(safe_merge=True)
        if precision == "bfloat16":
            _round(merged)
        # Some models ship sampling defaults that transformers reads but refuses to write; our
        # engines do not use them.
        merged.generation_config = GenerationConfig.from_model_config(merged.config)
        merged.save_pretrained(directory)
        load_tokenizer(model, trust_remote_code).save_pretrained(directory)

    def _applied_to(self, base: Any) -> Any:
        from peft import PeftConfig, PeftModel
        from safetensors.torch import load

        try:
            with TemporaryDirectory() as place:
                (Path(place) / CONFIG_FILE).write_bytes(self.config)
                model = PeftModel(base, PeftConfig.from_pretrained(place))
            put_weights(model, load(self.weights))
        except Exception as error:  # peft, torch and safetensors kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
            raise UserError(
                f"the base adapter {self.path} does not fit the model: {reason[:300].rstrip('.')}; "
                "give an adapter that was trained on it"
            ) from error
        return model


def merged_model_dir(model: str, adapter: Path, trust_remote_code: bool) -> str:
    """Returns the directory of the model with an adapter of this machine merged in."""
    return BaseAdapter.read(adapter, model).merged_into(model, trust_remote_code)


def fingerprint(model: str) -> object:
    """Returns an identity that differs between models, and for new files in the same directory."""
    where = Path(model)
    if commit := commit_of(model):
        return (public_name(model), commit)
    files = sorted(where.iterdir()) if where.is_dir() else []
    # A directory may be rewritten under the same name; its files' times show that.
    return (model, [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files])


def is_merged(model: str) -> bool:
    """Whether a resolved model is such a merged directory."""
    return Path(model).name.startswith(_PREFIX)


def _check_adapter(model: str, adapter: Path) -> None:
    if adapter.name.startswith(TUNED) and not adapter.exists():
        raise UserError(
            f"the base adapter {adapter}, tuned by a run, is gone from the cache; run the same job "
            "on the same data and model without --task.base-adapter and --resume to make it again"
        )
    config, _ = check_adapter(adapter, "the base adapter")
    made_for = config.get("base_model_name_or_path")
    # Compares the last part only: a directory's parent differs between machines.
    if made_for and Path(made_for).name != Path(public_name(model)).name:
        raise UserError(
            f"the base adapter {adapter} was made for {made_for}, and the model is {model}; give "
            "that one as --model.name, or another adapter"
        )


def _round(model: Any) -> None:
    """Rounds to bfloat16 so that the mean is kept: the nearest value is often the old weight."""
    import torch

    rng = torch.Generator().manual_seed(number(seed_of(Stream.ROUNDING, 0)))
    for parameter in model.parameters():
        parameter.data = stochastically_rounded(parameter.data, rng)
    model.config.dtype = torch.bfloat16
