"""A base model with an adapter merged into it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open

from gfn_ray.config import PolicyConfig
from gfn_ray.errors import UserError
from gfn_ray.models.loading import load_causal_lm, load_tokenizer
from gfn_ray.models.merged import BaseAdapter, merged_model_dir
from testing.policies import load, write_random_adapter
from testing.tiny import tiny_model

IDS = torch.arange(10, 40)[None]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GFN_RAY_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def adapter(tiny_dir, tmp_path_factory):
    return write_random_adapter(tiny_dir, tmp_path_factory.mktemp("trained") / "adapter")


@pytest.fixture
def copied(adapter, tmp_path):
    """A copy of the adapter to damage."""
    return Path(shutil.copytree(adapter, tmp_path / "copied"))


def merged(model, adapter):
    return merged_model_dir(str(model), adapter, False)


@torch.no_grad()
def test_the_merged_model_is_the_base_with_its_adapter_to_rounding(tiny_dir, adapter):
    directory = merged(tiny_dir, adapter)
    expected = PeftModel.from_pretrained(load(tiny_dir), adapter)(IDS).logits
    found = load_causal_lm(directory, "float32", "cpu", False)(IDS).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, load(tiny_dir)(IDS).logits, atol=1e-1)


def test_a_base_whose_sampling_defaults_transformers_would_not_write_is_merged(
    tiny_dir, adapter, tmp_path
):
    base = Path(shutil.copytree(tiny_dir, tmp_path / tiny_dir.name))
    (base / "generation_config.json").write_text('{"temperature": 0.9, "top_p": 0.6}')
    assert Path(merged(base, adapter), "model.safetensors").is_file()


def test_the_merged_model_brings_its_tokenizer(tiny_dir, adapter):
    text = "Anna couldn't find 12 émigrés."
    before, after = (
        load_tokenizer(str(path), False)(text)["input_ids"]
        for path in (tiny_dir, merged(tiny_dir, adapter))
    )
    assert before == after


def test_a_pair_is_merged_once_and_another_adapter_is_merged_apart(tiny_dir, adapter, tmp_path):
    first = merged(tiny_dir, adapter)
    made = Path(first, "model.safetensors").stat().st_mtime_ns
    assert merged(tiny_dir, adapter) == first
    assert Path(first, "model.safetensors").stat().st_mtime_ns == made
    other = write_random_adapter(tiny_dir, tmp_path / "other", seed=1)
    assert merged(tiny_dir, other) != first


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_directory_without_an_adapter_is_refused_by_what_it_lacks(tiny_dir, copied, name):
    (copied / name).unlink()
    with pytest.raises(UserError, match=f"holds no {name}"):
        merged(tiny_dir, copied)


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_configuration_that_is_none_is_refused(tiny_dir, copied, text):
    (copied / "adapter_config.json").write_text(text)
    with pytest.raises(UserError, match="is not a PEFT configuration"):
        merged(tiny_dir, copied)


def test_an_adapter_of_another_base_is_refused_by_both_names(tiny_dir, copied):
    set_base(copied, "gpt2-large")
    with pytest.raises(UserError, match=r"was made for gpt2-large, and the model is .*tiny"):
        merged(tiny_dir, copied)


def test_an_adapter_of_a_base_that_lay_elsewhere_is_taken(tiny_dir, copied):
    set_base(copied, f"/another/machine/{tiny_dir.name}")
    assert Path(merged(tiny_dir, copied)).is_dir()


@pytest.mark.parametrize(
    "changes",
    [{"hidden_size": 96}, {"num_hidden_layers": 3}, {"num_hidden_layers": 1}],
    ids=["shapes", "layers without a tensor", "tensors without a layer"],
)
def test_an_adapter_that_does_not_fit_is_refused_and_leaves_no_model(tmp_path, adapter, changes):
    other = tiny_model(tmp_path / adapter_base(adapter), **changes)
    with pytest.raises(UserError, match="does not fit the model"):
        merged(other, adapter)
    assert not [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]


def test_an_adapter_on_fewer_layers_than_the_model_has_is_taken(tiny_dir, tmp_path):
    few = write_random_adapter(
        tiny_dir, tmp_path / "few", policy=PolicyConfig(lora_rank=8, lora_targets=("q_proj",))
    )
    assert Path(merged(tiny_dir, few)).is_dir()


def adapter_base(adapter):
    return Path(
        json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    ).name


def set_base(adapter, name):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": name}))


def test_the_merge_has_the_precision_of_the_models_files_and_keeps_small_changes(
    tiny_dir, adapter, tmp_path
):
    """Of bfloat16, the nearest values would be the old weights for most of them."""
    narrow = tmp_path / tiny_dir.name
    load(tiny_dir).to(torch.bfloat16).save_pretrained(narrow)
    load_tokenizer(str(tiny_dir), False).save_pretrained(narrow)
    directory = merged(narrow, adapter)
    with safe_open(Path(directory) / "model.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    name = "model.layers.0.self_attn.q_proj.weight"
    base = load_causal_lm(str(narrow), "float32", "cpu", False).get_parameter(name)
    exact = PeftModel.from_pretrained(load_causal_lm(str(narrow), "float32", "cpu", False), adapter)
    change = exact.merge_and_unload().get_parameter(name) - base
    found = load_causal_lm(directory, "float32", "cpu", False).get_parameter(name) - base
    slope = (found * change).sum() / (change * change).sum()
    assert slope == pytest.approx(1.0, abs=0.05)


def test_a_machine_without_the_adapters_directory_makes_the_same_merge(tiny_dir, copied, tmp_path):
    read = BaseAdapter.read(copied, str(tiny_dir))
    shutil.rmtree(copied)
    assert Path(read.merged_into(str(tiny_dir), False)) == read.directory(str(tiny_dir))
