"""A LoRA layer in one operation is PEFT's: values, gradients, and all that PEFT does with it."""

import copy
import warnings

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import Linear

from gfn_ray.config import PolicyConfig
from gfn_ray.models.lora_targets import ALL_LINEAR
from gfn_ray.policy.adapter import add_adapter
from gfn_ray.policy.log_q import TrajectoryGroup, log_q
from gfn_ray.policy.lora_linear import LoraLinear
from testing.families import PACKED, VOCABULARY, random_model
from testing.makers import make_support, random_ids, random_trajectories

POLICY = PolicyConfig(lora_rank=8, lora_targets=(ALL_LINEAR,))


def adapted(kind, dtype=torch.float32, seed=1):
    """A model with a trained-looking adapter, and the same with PEFT's own layers."""
    base = random_model(kind, **PACKED[kind]).to(dtype).requires_grad_(False)
    mine = add_adapter(copy.deepcopy(base), POLICY, seed=0)
    of_peft = LoraConfig(
        r=8,
        lora_alpha=POLICY.lora_alpha,
        target_modules=list(mine.peft_config["default"].target_modules),
        task_type="CAUSAL_LM",
    )
    theirs = get_peft_model(base, of_peft)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in mine.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    theirs.load_state_dict(mine.state_dict())
    return mine, theirs


def layers(model, kind):
    return [module for module in model.modules() if type(module) is kind]


def log_q_and_gradients(model):
    support, rng = make_support(vocab_size=VOCABULARY), np.random.default_rng(0)
    groups = [
        TrajectoryGroup(random_ids(rng, 9, VOCABULARY), random_trajectories(rng, support, "q", 6))
        for _ in range(2)
    ]
    found = log_q(model, groups, support, torch.from_numpy(support.masks)).log_q
    weights = torch.linspace(-1, 1, len(found), dtype=found.dtype)
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad((found * weights).sum(), trained)
    assert {g.dtype for g in gradients} == {torch.float32}
    return found.detach(), torch.cat([g.flatten() for g in gradients])


def apart(one, other):
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("kind", PACKED)
def test_log_q_and_its_gradients_are_those_of_pefts_layers(kind):
    mine, theirs = adapted(kind)
    assert not layers(theirs, LoraLinear)
    if kind == "gpt2":  # whose layers are no linear ones
        assert not layers(mine, LoraLinear)
    else:
        assert len(layers(mine, LoraLinear)) == len(layers(theirs, Linear))
    (value, gradient), (expected, gradient_of_peft) = map(log_q_and_gradients, (mine, theirs))
    assert torch.allclose(value, expected, rtol=1e-6, atol=1e-6)
    assert apart(gradient, gradient_of_peft) < 1e-6


@pytest.mark.parametrize("kind", ["llama", "qwen2", "opt"])
def test_on_a_half_precision_base_it_errs_about_as_much_as_pefts_layers(kind):
    of_mine, of_peft = [], []
    for seed in range(8):
        exact = log_q_and_gradients(adapted(kind, seed=seed)[0])
        for model, errors in zip(
            adapted(kind, torch.bfloat16, seed), (of_mine, of_peft), strict=True
        ):
            found = log_q_and_gradients(model)
            errors.append([apart(one, other) for one, other in zip(found, exact, strict=True)])
    for mine, theirs in zip(np.mean(of_mine, axis=0), np.mean(of_peft, axis=0), strict=True):
        assert (
            mine < 1.5 * theirs
        )  # these adapters are as large as the base, so their rounding shows


def test_no_copy_of_the_output_is_kept_for_the_gradient():
    layer = layers(adapted("llama")[0], LoraLinear)[0]
    x = torch.randn(1, 7, layer.in_features, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    weights = {layer.base_layer.weight.data_ptr(), *(p.data_ptr() for p in layer.parameters())}
    sizes = [t.numel() for t in kept if t.data_ptr() not in {*weights, x.data_ptr()}]
    assert sizes == [7 * 8]  # the product of rank 8


def test_without_its_adapter_the_model_is_the_base():
    mine, _ = adapted("llama")
    base = random_model("llama", **PACKED["llama"])
    ids = torch.arange(5, 20)[None]
    with mine.disable_adapter():
        assert torch.equal(mine(ids).logits, base(ids).logits)
    assert not torch.allclose(mine(ids).logits, base(ids).logits, atol=1e-2)


def test_names_and_merged_weights_are_pefts():
    mine, theirs = adapted("llama")
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    saved = get_peft_model_state_dict(mine)
    assert saved.keys() == get_peft_model_state_dict(theirs).keys()
    ids = torch.arange(5, 20)[None]
    expected = theirs(ids).logits
    mine.merge_adapter()
    assert torch.allclose(mine(ids).logits, expected, atol=1e-4)
    mine.unmerge_adapter()
    merged, of_peft = (model.merge_and_unload().state_dict() for model in (mine, theirs))
    assert merged.keys() == of_peft.keys()
    assert all(torch.allclose(merged[name], of_peft[name], atol=1e-6) for name in merged)


@pytest.mark.parametrize(
    "settings",
    [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}, {"use_rslora": True}],
    ids=lambda settings: next(iter(settings)),
)
def test_other_kinds_of_lora_are_computed_as_peft_does(settings):
    def output(layer_type):
        lora = LoraConfig(r=4, target_modules=["0"], init_lora_weights=False, **settings)
        lora._register_custom_module({torch.nn.Linear: layer_type})
        torch.manual_seed(0)
        model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(6, 5, bias=True)), lora)
        assert layers(model, layer_type)
        torch.manual_seed(1)
        return model(torch.linspace(-1, 1, 18).view(3, 6))

    assert torch.allclose(output(LoraLinear), output(Linear), atol=1e-6)


def test_two_adapters_at_once_are_computed_as_peft_does():
    def output(layer_type):
        lora = LoraConfig(r=4, target_modules=["0"], init_lora_weights=False)
        lora._register_custom_module({torch.nn.Linear: layer_type})
        torch.manual_seed(0)
        model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(6, 5)), lora)
        model.add_adapter("second", lora)
        model.base_model.set_adapter(["default", "second"])
        return model(torch.linspace(-1, 1, 18).view(3, 6))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, of a second adapter
        assert torch.allclose(output(LoraLinear), output(Linear), atol=1e-6)
