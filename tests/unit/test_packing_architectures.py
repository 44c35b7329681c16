"""One forward over a forest is one forward a path, in each family of models: values and gradients
where the model reads a forest, and by the way round it where it does not."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from gfn_ray.config import ModelConfig, PolicyConfig
from gfn_ray.models.loading import load_causal_lm
from gfn_ray.models.lora_targets import ALL_LINEAR
from gfn_ray.packing.forward import supports_trees, tree_log_probs
from gfn_ray.packing.head import read_hidden
from gfn_ray.packing.prefix_tree import ROOT, PrefixTree
from gfn_ray.policy.adapter import add_adapter, read_adapter
from gfn_ray.runtime.actors.learner_actor import LearnerActor
from gfn_ray.tasks.infill.config import InfillJob
from testing.families import (
    BY_PATH,
    GEMMA,
    GPT_NEO,
    LLAMA,
    OF_THEIR_OWN,
    PACKED,
    VOCABULARY,
    random_model,
)
from testing.makers import make_support


def branches(seed=0):
    """A forest of two prompts with branches that share a beginning: (prompt, z, nodes of z)."""
    rng = np.random.default_rng(seed)
    tree, found = PrefixTree(), []
    for _ in range(2):
        prompt = rng.integers(5, VOCABULARY, 6)
        root = tree.add_path(prompt, ROOT)[-1]
        stem = rng.integers(5, VOCABULARY, 2)
        for length in (1, 3, 5, 2, 4):
            z = np.concatenate([stem, rng.integers(5, VOCABULARY, length)])
            found.append((prompt, z, tree.add_path(z, root)))
    return tree, found


def packed(model):
    tree, found = branches()
    nodes = sorted({node for *_, path in found for node in path})
    log_prob = tree_log_probs(model, tree, nodes).log_prob
    return torch.stack([log_prob[path].sum() for *_, path in found])


def alone(model):
    sums = []
    for prompt, z, _ in branches()[1]:
        ids = torch.from_numpy(np.concatenate([prompt, z]))[None]
        log_probs = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
        sums.append(log_probs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :].sum())
    return torch.stack(sums)


def assert_same_values_and_gradients(model, of_gradients=1e-5):
    mine, theirs = packed(model), alone(model)
    assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-5)
    weights = torch.linspace(-1, 1, len(mine))  # no symmetry that could hide a mix-up
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = [
        torch.autograd.grad((one * weights).sum(), parameters, allow_unused=True)
        for one in (mine, theirs)
    ]
    mine, theirs = ([g for g in found if g is not None] for found in gradients)
    largest = max(float(gradient.abs().max()) for gradient in theirs)
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, rtol=of_gradients, atol=of_gradients * largest)


@pytest.mark.parametrize("kind", PACKED)
def test_a_model_that_reads_forests_gives_the_same_packed_and_alone(kind):
    model = random_model(kind, **PACKED[kind])
    assert supports_trees(model)
    assert_same_values_and_gradients(model)


@pytest.mark.parametrize("kind", PACKED)
def test_a_frozen_head_is_read_without_keeping_logits_and_gives_the_same(kind, monkeypatch):
    monkeypatch.setattr("gfn_ray.packing.head.ROWS", 5)  # several chunks, and a last one of fewer
    model = random_model(kind, **PACKED[kind])
    model.get_output_embeddings().requires_grad_(False)
    read = []
    monkeypatch.setattr(
        "gfn_ray.packing.forward.read_hidden",
        lambda hidden, *rest: read.append(len(hidden)) or read_hidden(hidden, *rest),
    )
    assert_same_values_and_gradients(model)
    assert read


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_counts_places_is_known_by_its_settings_where_its_weights_hardly_show_it(
    dtype,
):
    settings = {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64}
    config = AutoConfig.for_model("mpt", vocab_size=VOCABULARY, **settings)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    assert not supports_trees(model)


@pytest.mark.parametrize("kind", BY_PATH)
def test_a_model_that_reads_none_is_given_one_path_after_another(kind):
    model = random_model(kind, **BY_PATH[kind])
    assert not supports_trees(model)
    assert_same_values_and_gradients(model)


def test_a_path_longer_than_the_models_window_is_read_alone():
    model = random_model("mistral", **{**LLAMA, "sliding_window": 4})
    assert_same_values_and_gradients(model)


@pytest.mark.parametrize("kind", [*PACKED, "bloom"])
def test_all_linear_layers_are_those_that_peft_takes_for_all(kind):
    settings = {**PACKED, **BY_PATH}[kind]

    def adapted(targets):
        plain = LoraConfig(r=8, target_modules=targets, task_type="CAUSAL_LM")
        model = get_peft_model(random_model(kind, **settings), plain)
        return {name for name, _ in model.named_parameters() if ".lora_A." in name}

    policy = PolicyConfig(lora_rank=8, lora_targets=(ALL_LINEAR,))
    mine = read_adapter(add_adapter(random_model(kind, **settings), policy, seed=0), 0)
    theirs = adapted(ALL_LINEAR)
    assert theirs
    assert adapted(mine.config["target_modules"]) == theirs


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama4_text", {**GEMMA, "attention_chunk_size": 11, "intermediate_size_mlp": 64}),
        ("gpt_neo", {**GPT_NEO, "window_size": 16}),  # no path is as long, the forest is
    ],
)
def test_a_window_that_the_try_out_fits_into_is_heeded_by_whatever_name(kind, settings):
    assert_same_values_and_gradients(random_model(kind, **settings))


def eager_model(directory):
    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def saved(directory, kind, std=None, **settings):
    """std: of the weights that make queries and keys; default: as made."""
    model = random_model(kind, **settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if std is not None and ("q_proj.weight" in name or "k_proj.weight" in name):
                parameter.normal_(std=std)
    model.save_pretrained(directory)
    return str(directory)


@pytest.mark.parametrize("kind", OF_THEIR_OWN)
def test_a_loaded_model_attends_as_its_eager_forward_does_packed_or_not(kind, tmp_path):
    path = saved(tmp_path, kind, std=1.5, **OF_THEIR_OWN[kind])
    model, eager = load_causal_lm(path, "float32", "cpu", False), eager_model(path)
    with torch.no_grad():
        expected = alone(eager)
        assert torch.allclose(alone(model), expected, atol=1e-4)
        assert torch.allclose(packed(model), expected, atol=1e-4)
    assert supports_trees(model)
    # Queries and keys this large leave gradients 2e-5 apart by rounding alone.
    assert_same_values_and_gradients(model.requires_grad_(True), of_gradients=1e-4)


@pytest.mark.parametrize("kind", OF_THEIR_OWN)
def test_a_cap_or_a_sink_is_seen_with_weights_that_do_not_show_it(kind, tmp_path):
    path = saved(tmp_path, kind, std=0.02, **OF_THEIR_OWN[kind])
    assert load_causal_lm(path, "float32", "cpu", False).config._attn_implementation == "eager"


def test_a_model_whose_attention_cannot_be_set_keeps_its_own(tmp_path):
    path = saved(tmp_path, "falcon", **{**GPT_NEO, "num_attention_heads": 4, "alibi": True})
    model, eager = load_causal_lm(path, "float32", "cpu", False), eager_model(path)
    with torch.no_grad():
        assert torch.allclose(packed(model), alone(eager), atol=1e-4)


@pytest.mark.parametrize("kind", PACKED)
def test_attention_is_fused_where_that_is_the_same(kind, tmp_path):
    path = saved(tmp_path, kind, **PACKED[kind])
    attention = load_causal_lm(path, "float32", "cpu", False).config._attn_implementation
    assert attention == ("eager" if kind == "gptj" else "sdpa")  # GPT-J has no other


@pytest.mark.parametrize(
    ("kind", "settings", "targets", "told"),
    [
        ("bloom", BY_PATH["bloom"], ("query_key_value",), "BloomForCausalLM does not accept"),
        ("gptj", PACKED["gptj"], ("q_proj", "v_proj"), None),
    ],
)
def test_a_person_is_told_where_a_model_reads_no_forest(kind, settings, targets, told, tmp_path):
    random_model(kind, **settings).save_pretrained(tmp_path)
    config = InfillJob(
        model=ModelConfig(name=str(tmp_path)),
        policy=PolicyConfig(lora_rank=8, lora_targets=targets),
    )
    support = make_support(vocab_size=VOCABULARY)
    remark = LearnerActor(config, "cpu", None, support, []).load()
    assert remark is None if told is None else told in remark
