"""Adapters and models that are not what they should be: exit 2, one sentence, nothing changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import gfn_ray
from gfn_ray.cli import main
from gfn_ray.config import ModelConfig
from gfn_ray.models.adapter_files import CONFIG_FILE, WEIGHTS_FILE, check_adapter
from gfn_ray.models.loading import load_causal_lm, load_tokenizer, resolve_model
from gfn_ray.models.merged import merged_model_dir
from gfn_ray.models.sentence_encoder import SentenceEncoder
from gfn_ray.runtime.run import run
from gfn_ray.serving.description import FILE
from gfn_ray.storage.atomic import COMPLETE
from gfn_ray.tasks.random_number.task import RandomNumberTask
from testing.good_run import mark_again, settings
from testing.pickles import write_pickle
from testing.refusals import check, contents, refusal, unprivileged
from testing.refused_places import (
    OUT_OF_SIGHT,
    Spoil,
    a_file,
    below,
    change_json,
    cut,
    empty,
    fill,
    flip,
    gone,
    promise_too_much,
    replace,
)
from testing.tiny import tiny_model

# --- Adapters ---


def widened(adapter: Path) -> None:
    """Tensors of the right rank, for layers with more inputs."""
    tensors = load_file(adapter / WEIGHTS_FILE)
    for name in [name for name in tensors if ".q_proj.lora_A." in name]:
        tensors[name] = np.zeros((8, 96), np.float32)
    save_file(tensors, adapter / WEIGHTS_FILE)
    mark_again(adapter)


def config_of(**changes: Any) -> Spoil:
    def spoil(adapter: Path) -> None:
        change_json(adapter / CONFIG_FILE, **changes)
        mark_again(adapter)

    return spoil


def weights(spoil: Spoil) -> Spoil:
    return lambda adapter: (spoil(adapter / WEIGHTS_FILE), mark_again(adapter))


def pickled(adapter: Path) -> None:
    (adapter / WEIGHTS_FILE).unlink()
    write_pickle(adapter / "adapter_model.bin", adapter / "it-ran")


def no_json(content: str) -> Spoil:
    return lambda adapter: ((adapter / CONFIG_FILE).write_text(content), mark_again(adapter))


ADAPTERS: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "missing": (gone, ("holds no adapter_config.json", "expected a PEFT adapter's directory")),
    "a file": (a_file, ("holds no adapter_config.json",)),
    "empty": (empty, ("holds no adapter_config.json",)),
    "without weights": (below(WEIGHTS_FILE, Path.unlink), (f"holds no {WEIGHTS_FILE}",)),
    "a pickle": (pickled, ("adapter_model.bin, a pickle, which could run code",)),
    "settings that are no JSON": (no_json("{"), (CONFIG_FILE, "is not a PEFT configuration")),
    "settings that are no object": (no_json("[]"), (CONFIG_FILE, "not a JSON object")),
    "settings that nest too deep": (no_json("[" * 100_000), (CONFIG_FILE, "is not a PEFT")),
    "a rank of the wrong type": (config_of(r="8"), ("its r is not a whole number",)),
    "ranks by layer of the wrong type": (config_of(rank_pattern=5), ("is not a PEFT",)),
    "another rank": (config_of(r=4), ("it names rank 4, and the tensors have rank 8",)),
    "a rank beyond all memory": (config_of(r=10**12), ("it names rank 1000000000000",)),
    "other layers": (
        config_of(target_modules=["lm_head"]),
        (CONFIG_FILE, "its target_modules lack"),
    ),
    "layers of the wrong type": (config_of(target_modules=5), ("does not fit the model",)),
    "another kind of adapter": (config_of(peft_type="IA3"), ("'IA3', and only LORA is supported",)),
    "another base": (
        config_of(base_model_name_or_path="gpt2-large"),
        ("was made for gpt2-large, and the model is",),
    ),
    "a base of the wrong type": (config_of(base_model_name_or_path=5), ("_path is 5",)),
    "truncated weights": (weights(cut), (WEIGHTS_FILE, "cannot be read")),
    "weights of no sense": (weights(fill), (WEIGHTS_FILE, "cannot be read")),
    "empty weights": (weights(lambda file: fill(file, b"")), (WEIGHTS_FILE, "cannot be read")),
    "weights that promise too much": (weights(promise_too_much), (WEIGHTS_FILE, "cannot be read")),
    "a flipped bit": (below(WEIGHTS_FILE, flip), (f"{WEIGHTS_FILE} is not as it was written",)),
    "tensors of another shape": (widened, ("does not fit the model", "shape")),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_what_is_no_adapter_of_the_base_is_not_merged(
    case: str, home: Path, tiny_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, named = ADAPTERS[case]
    adapter = home / "run" / "adapter"
    spoil(adapter)
    ask = lambda: merged_model_dir(str(tiny_dir), adapter, False)  # noqa: E731
    refusal(ask, home, capsys, str(adapter), *named)
    models = home.parent / "cache" / "models"
    assert not models.exists() or not [path for path in models.iterdir() if path.is_dir()]


def of_settings(adapter: Path) -> None:
    replace("lora_rank = 8", "lora_rank = 16")(adapter / FILE)
    mark_again(adapter)


def on_a_wider_model(adapter: Path) -> None:
    wide = tiny_model(adapter.parent / "wide", hidden_size=96)
    name = json.loads((adapter / CONFIG_FILE).read_text())["base_model_name_or_path"]
    replace(name, str(wide))(adapter / FILE)
    mark_again(adapter)


def on_a_model_of_fewer_layers(adapter: Path) -> None:
    flat = tiny_model(adapter.parent / "flat", num_hidden_layers=1)
    name = json.loads((adapter / CONFIG_FILE).read_text())["base_model_name_or_path"]
    replace(name, str(flat))(adapter / FILE)
    mark_again(adapter)


SERVED: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "missing": (gone, ("there is no adapter directory",)),
    "a file": (a_file, ("there is no adapter directory",)),
    "empty": (empty, ("has no file gfn_ray.toml",)),
    "torn": (below(COMPLETE, Path.unlink), ("is torn (it has no file COMPLETE)",)),
    "a flipped bit": (below(WEIGHTS_FILE, flip), (f"{WEIGHTS_FILE} is not as it was written",)),
    "a description with a flipped bit": (below(FILE, flip), (f"{FILE} is not as it was",)),
    "a description of a newer format": (
        lambda adapter: (replace("format = 1", "format = 2")(adapter / FILE), mark_again(adapter)),
        ("has format 2",),
    ),
    "a description that nests too deep": (
        lambda adapter: (fill(adapter / FILE, b"a=" + b"[" * 100_000), mark_again(adapter)),
        (f"{FILE} cannot be read",),
    ),
    "a pickle": (lambda adapter: (pickled(adapter), mark_again(adapter)), ("a pickle, which",)),
    "weights that promise too much": (weights(promise_too_much), (WEIGHTS_FILE, "cannot be read")),
    "settings of another rank": (of_settings, ("has rank 8", "says policy.lora_rank 16")),
    "a base of another width": (
        on_a_wider_model,
        ("does not fit the model", "96 outputs, and the adapter 64"),
    ),
    "a base of fewer layers": (
        on_a_model_of_fewer_layers,
        ("does not fit the model", "the model has no linear layer model.layers.1"),
    ),
}


@pytest.mark.parametrize("case", SERVED)
def test_what_is_no_whole_adapter_is_not_served(
    case: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, named = SERVED[case]
    adapter = home / "run" / "adapter"
    spoil(adapter)
    refusal(lambda: gfn_ray.open(adapter).close(), home, capsys, str(adapter), *named)


# --- Models ---


def poisoned(model: Path) -> None:
    (model / "model.safetensors").unlink()
    write_pickle(model / "pytorch_model.bin", model / "it-ran")


def of_the_cache(model: Path) -> None:
    cut(model / "model.safetensors")
    (model / "complete.json").write_text("{}")


MODELS: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "missing": (gone, ("--model.name", "no directory")),
    "a file": (a_file, ("--model.name", "no directory")),
    "empty": (empty, ("holds no config.json",)),
    "a configuration that is no object": (
        lambda model: (model / "config.json").write_text("[]"),
        ("--model.name: cannot load", "give another directory"),
    ),
    "weights that promise too much": (
        below("model.safetensors", promise_too_much),
        ("--model.name: cannot load the model", "give another directory"),
    ),
    "weights of no sense": (below("model.safetensors", fill), ("cannot load the model",)),
    "a pickle that runs code": (poisoned, ("are pickled (pytorch_model.bin)",)),
    "a tokenizer cut short": (below("tokenizer.json", cut), ("cannot load the tokenizer",)),
    "a damaged one of the cache": (of_the_cache, ("remove that directory to have it made again",)),
}


@pytest.mark.parametrize("case", MODELS)
def test_what_is_no_model_is_not_loaded(
    case: str, home: Path, tiny_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, named = MODELS[case]
    model = Path(shutil.copytree(tiny_dir, home / "model"))
    spoil(model)

    def load() -> None:
        path = resolve_model(ModelConfig(name=str(model)))
        load_tokenizer(path, False)
        load_causal_lm(path, "float32", "cpu", False)

    refusal(load, home, capsys, str(model), *named)


def of_kind(kind: str, **changes: Any) -> Spoil:
    """The tokenizer with the configuration of another architecture: no weights are looked at."""

    def spoil(model: Path) -> None:
        config = AutoConfig.for_model(kind, vocab_size=1000, **changes)
        config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]]
        config.save_pretrained(model)
        (model / "model.safetensors").unlink()

    return spoil


def as_it_is(_: Path) -> None: ...


LAYERS = "its linear layers are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj: give"

LORA = {"sync": "lora"}
MERGED = {"sync": "merged", "lora_targets": ("all-linear",)}
MIXTURE = {"num_experts": 2, "shared_expert_intermediate_size": 32, "moe_intermediate_size": 32}
FOUR_BITS = {"quant_method": "bitsandbytes", "load_in_4bit": True}

# What is done to the model, what is asked of the policy, and what the sentence names.
UNFIT: dict[str, tuple[Spoil, dict[str, Any], tuple[str, ...]]] = {
    "GPT-2": (
        of_kind("gpt2"),
        LORA,
        ("(a GPT2LMHeadModel)", "policy.sync to merged if", "Mistral"),
    ),
    "GPT-J": (of_kind("gptj"), LORA, ("(a GPTJForCausalLM)", "model.name")),
    "Bloom": (of_kind("bloom"), LORA, ("(a BloomForCausalLM)",)),
    "one that vLLM does not list": (of_kind("codegen"), MERGED, ("(a CodeGenForCausalLM)",)),
    "merged, a head that is the embedding": (
        of_kind("gpt2"),
        {"lora_targets": ("c_attn", "lm_head")},
        ("policy.sync", "'lm_head'", "is also the input embedding", "policy.lora_targets"),
    ),
    "merged, a mixture of experts": (
        of_kind("qwen2_moe", **MIXTURE),
        MERGED,
        ("policy.sync", "is in a mixture of experts"),
    ),
    "merged, four bits": (
        of_kind("llama", quantization_config=FOUR_BITS),
        MERGED,
        ("policy.sync", "are quantised"),
    ),
    "no linear layer": (
        as_it_is,
        {"lora_targets": ("q_proj", "norm")},
        ("policy.lora_targets names 'norm', which is not a linear layer", LAYERS, "all-linear"),
    ),
    "a layer of another model": (
        as_it_is,
        {"lora_targets": ("c_attn",)},
        ("names 'c_attn', which is not in", LAYERS),
    ),
    "the layers of another model": (
        of_kind("gpt_neox"),
        {},
        ("names 'q_proj'", "are query_key_value, dense, dense_h_to_4h, dense_4h_to_h: give"),
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_model_that_no_run_can_use_so_is_refused_before_anything_starts(
    case: str, tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, changes, named = UNFIT[case]
    model = Path(shutil.copytree(tiny_dir, tmp_path / "model"))
    (model / "chat_template.jinja").write_text("{{ messages[0].content }}")
    spoil(model)
    before = contents(tmp_path)
    config = settings(model, tmp_path)
    policy = config.policy.model_copy(update=changes)
    config = config.model_copy(update={"policy": policy})
    code = main(lambda: run(config, RandomNumberTask(config)))
    out, err = capsys.readouterr()
    check(code, err, *named)
    assert out.count("the model has a chat template, which is not used") == 1
    assert not ray.is_initialized()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("spoil", [cut, Path.unlink])
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "complete.json"])
def test_a_half_written_model_of_the_cache_is_made_again(
    name: str, spoil: Spoil, home: Path, tiny_dir: Path
) -> None:
    def made() -> Path:
        return Path(merged_model_dir(str(tiny_dir), home / "run" / "adapter", False))

    def read() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in made().iterdir() if file.name != "lock"}

    whole = read()
    spoil(made() / name)
    assert read() == whole


# --- Paths ---

READERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a model": (lambda path: resolve_model(ModelConfig(name=str(path))), "--model.name"),
    "an adapter": (lambda path: check_adapter(path, "the base adapter"), "the base adapter"),
    "a served adapter": (lambda path: gfn_ray.open(path).close(), "the adapter"),
    "an encoder": (lambda path: SentenceEncoder(str(path)), "--encoder.name"),
}


@pytest.mark.parametrize("make", OUT_OF_SIGHT)
@pytest.mark.parametrize("reader", READERS)
def test_a_path_at_which_nobody_can_look_is_refused(
    reader: str,
    make: Callable[[Path], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read, called = READERS[reader]
    path = make(tmp_path)

    def ask() -> None:
        with unprivileged():
            read(path)

    refusal(ask, tmp_path, capsys, f"{called}: cannot read {str(path)[:200]}", OUT_OF_SIGHT[make])


@pytest.mark.parametrize("name", ["~no.one/a", "a\0b", ""])
@pytest.mark.parametrize("reader", ["a model", "a served adapter"])
def test_a_name_that_can_be_no_path_is_refused(
    reader: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = {
        "a model": lambda: resolve_model(ModelConfig(name=name)),
        "a served adapter": lambda: gfn_ray.open(name).close(),
    }[reader]
    refusal(read, tmp_path, capsys, f"directory {name!r}")
