"""Turns `--model.name` into a tokenizer and a frozen causal LM.

All models are resolved and loaded here. Every failure that another name, directory or device can
fix becomes a UserError; a lack of memory, which may be temporary, does not.

A directory is loaded without any network call. Imports torch and transformers only
inside functions.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gfn_ray.config import DType, ModelConfig
from gfn_ray.config.sections import Quantization
from gfn_ray.errors import OutOfMemory, UserError, out_of_memory
from gfn_ray.models.cache import MARKER
from gfn_ray.models.embedded import embedded_model_dir
from gfn_ray.models.hub import download, public_name
from gfn_ray.paths import is_dir, is_file
from gfn_ray.settings import path_from

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = "smollm2-135m"
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_LONGEST_REASON = 300  # characters; transformers lists every architecture it knows


def resolve_model(config: ModelConfig) -> str:
    """Returns an absolute directory, for both transformers and vLLM; downloads a model of the hub
    that this machine does not have."""
    name = config.name
    if name == EMBEDDED:
        return str(embedded_model_dir())
    try:
        directory = path_from(name).expanduser()
    except ValueError:
        raise _no_directory(name) from None
    if is_dir(directory, "--model.name"):
        if not is_file(directory / "config.json", "--model.name"):
            raise UserError(
                f"--model.name: {directory.absolute()} holds no config.json; expected the "
                "directory of a complete causal LM, as save_pretrained writes it"
            )
        pickled = sorted(file.name for file in directory.glob("*.bin"))
        if pickled and not any(directory.glob("*.safetensors")):
            raise UserError(
                f"--model.name: the weights of {directory.absolute()} are pickled ({pickled[0]}), "
                "and a pickle can run code; expected safetensors, as save_pretrained writes them"
            )
        return str(directory.resolve())
    if is_file(directory, "--model.name") or not _HUB_ID.fullmatch(name):
        raise _no_directory(name)
    return download(name, config.revision, with_code=config.trust_remote_code)


def _no_directory(name: str) -> UserError:
    return UserError(
        f"--model.name: no directory {name!r}; expected {EMBEDDED!r}, an existing local "
        "directory, or a hub id like 'owner/model'"
    )


def hide_loading_bars(path: str) -> None:
    """Hides transformers' progress bars for a local model, which loads in a second. A download
    keeps its bar."""
    if Path(path).is_dir():
        from transformers.utils import logging

        logging.disable_progress_bar()


def load_tokenizer(path: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of a resolved model."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # tokenizers raises bare Exception, transformers many kinds
        raise _refusal("the tokenizer", path, error) from error
    return tokenizer


def load_causal_lm(
    path: str,
    dtype: str,
    device: str,
    trust_remote_code: bool,
    quantization: Quantization | None = None,
    spread: int = 1,
) -> PreTrainedModel:
    """Returns a resolved model, frozen, in eval mode; dtype as in config.DType. Its attention is
    torch's fused function if that equals the eager one.

    device is 'cpu', 'cuda' or 'cuda:N'. spread: GPUs, all that this process sees, that the layers
    are divided among. Raises UserError if they do not fit there.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from gfn_ray.models.attention import fuse_attention

    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise UserError("--runtime.device is cuda, and torch finds no CUDA device; use cpu or auto")
    further = _quantized(quantization, dtype)
    if spread > 1:
        further["device_map"] = "balanced"
    elif further:  # quantised while loading, and not movable afterwards
        further["device_map"] = device
    loaded: Any  # with output_loading_info: the model and a report, unlike its annotation
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            attn_implementation="eager",  # defines the family's attention
            use_safetensors=True,  # by default transformers falls back to pickled weights
            output_loading_info=True,
            **further,
        )
    except Exception as error:  # transformers, safetensors, torch and huggingface_hub kinds
        if out_of_memory(error):
            raise OutOfMemory(
                f"out of memory while loading the model of {path} ({_first_line(error)}); free "
                "some, or choose a smaller model with --model.name"
            ) from error
        raise _refusal("the model", path, error) from error
    model: PreTrainedModel = loaded[0]
    if missing := sorted(loaded[1]["missing_keys"]):
        # transformers fills these with random numbers and only warns.
        raise UserError(
            f"--model.name: the weights of {path} lack {len(missing)} tensors of its "
            f"architecture, such as {missing[0]}; it is not a complete causal LM"
        )
    if spread > 1 and {"cpu", "disk"}.intersection(model.hf_device_map.values()):
        raise UserError(
            f"the layers of {path} do not fit on reward.gpus ({spread}) GPUs; raise it, or choose "
            "model.quantization"
        )
    model.requires_grad_(False)
    model.name_or_path = model.config._name_or_path = public_name(path)  # adapters record it
    model.eval()
    if not further:
        model.to(device)
    fuse_attention(model)
    return model


def check_bitsandbytes() -> None:
    """Raises UserError without the package that model.quantization needs."""
    if find_spec("bitsandbytes") is None:
        raise UserError(
            "model.quantization needs bitsandbytes, which is not installed; install it "
            "(pip install 'gfn_ray[quantized]'), or leave model.quantization at none"
        )


def _quantized(quantization: Quantization | None, dtype: str) -> dict[str, Any]:
    """Returns transformers' arguments for weights that are quantised while they load. The output
    head and the embeddings stay as they are, and products are taken in dtype."""
    if quantization is None:
        return {}
    from transformers import BitsAndBytesConfig

    check_bitsandbytes()
    if quantization == "8bit":
        settings = BitsAndBytesConfig(load_in_8bit=True)
    else:
        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return {"quantization_config": settings}


def _refusal(what: str, path: str, error: Exception) -> UserError:
    if (Path(path) / MARKER).is_file():
        advice = "remove that directory to have it made again"
    else:
        advice = "give another directory"
    return UserError(f"--model.name: cannot load {what} of {path}: {_first_line(error)}; {advice}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:_LONGEST_REASON].rstrip(" .:")


def vocab_size(path: str, trust_remote_code: bool) -> int:
    """Returns the length of a model's logits, which may exceed the tokenizer's vocabulary."""
    return int(_text_config(path, trust_remote_code).vocab_size)


def max_positions(path: str, trust_remote_code: bool) -> int | None:
    """Returns the longest text that a model reads, in tokens; None if it does not say."""
    found = getattr(_text_config(path, trust_remote_code), "max_position_embeddings", None)
    return None if found is None else int(found)


def skeleton(path: str, trust_remote_code: bool) -> PreTrainedModel:
    """Returns a resolved model's modules without values for their weights; a second at most."""
    import torch
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                model_config(path, trust_remote_code), trust_remote_code=trust_remote_code
            )
    except UserError:
        raise
    except Exception as error:  # transformers raises many kinds for a bad configuration
        raise _refusal("the configuration", path, error) from error
    return model


def is_linear(module: Any) -> bool:
    """Whether PEFT treats the module as a linear layer for LoRA."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)  # the latter is GPT-2's own


def linear_layers(path: str, trust_remote_code: bool) -> dict[str, tuple[int, int]]:
    """Returns outputs and inputs of a model's linear layers by name, without reading weights."""
    found = {}
    for name, module in skeleton(path, trust_remote_code).named_modules():
        if is_linear(module):
            size = (module.nf, module.nx) if hasattr(module, "nf") else None
            found[name] = size or (module.out_features, module.in_features)
    return found


def body_layers(path: str, trust_remote_code: bool) -> dict[str, tuple[int, int]]:
    """The same without the output head, which not every token passes through."""
    size = vocab_size(path, trust_remote_code)
    layers = linear_layers(path, trust_remote_code)
    return {name: shape for name, shape in layers.items() if shape[0] != size}


def architectures(path: str, trust_remote_code: bool) -> list[str]:
    """Returns the names of the classes that a model was saved from; none if it does not say."""
    return list(model_config(path, trust_remote_code).architectures or [])


def file_dtype(path: str, trust_remote_code: bool) -> DType:
    """Returns the precision that a model was saved in; for float16, bfloat16, whose exponents no
    activation leaves. float32 if it does not say."""
    dtype = str(_text_config(path, trust_remote_code).dtype).removeprefix("torch.")
    return "bfloat16" if dtype in ("bfloat16", "float16") else "float32"


def chat_note(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Returns a note for a chat-tuned model; None for any other."""
    if not tokenizer.chat_template:
        return None
    return "the model has a chat template, which is not used: it reads prompts as plain text here"


def _text_config(path: str, trust_remote_code: bool) -> Any:
    return model_config(path, trust_remote_code).get_text_config()


def model_config(path: str, trust_remote_code: bool) -> Any:
    """Returns the configuration of a resolved model."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            path, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # transformers and huggingface_hub kinds
        raise _refusal("the configuration", path, error) from error
