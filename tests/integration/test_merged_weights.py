"""The real vLLM engine without LoRA: each version is W0 + BA, whole, in the weights' place."""

import os
from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoConfig

from gfn_ray.config import LearnerConfig, PolicyConfig, SamplerConfig
from gfn_ray.errors import UserError
from gfn_ray.sampling.environment import thread_environment, vllm_environment
from gfn_ray.tasks.infill.config import InfillJob
from testing.engines import mismatch, policy_of, random_versions, sample_version
from testing.makers import make_support, random_query
from testing.tiny import tiny_gpt, tiny_model

pytestmark = pytest.mark.vllm

TOLERANCE = 1e-4  # nats
LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# The layers of a model, and those of which some share a fused layer with others that have none.
LAYERS = {
    "llama": (LLAMA, ("q_proj", "up_proj")),
    "gpt2": (("c_attn", "c_proj", "c_fc"), ("c_attn",)),
    "gptj": (("q_proj", "k_proj", "v_proj", "out_proj", "fc_in", "fc_out"), ("v_proj", "fc_in")),
}


def job(layers, sync="merged", **sampler) -> InfillJob:
    return InfillJob(
        policy=PolicyConfig(lora_rank=8, lora_targets=layers, sync=sync),
        sampler=SamplerConfig(kv_cache_mb=32, max_batch=96, max_prompt_tokens=64, **sampler),
        learner=LearnerConfig(lr=0.05, warmup_steps=0),
    )


@pytest.fixture(scope="module")
def queries():
    rng = np.random.default_rng(0)
    # vLLM caches whole blocks of 16 tokens: shorter prompts would never meet a stale cache.
    return [random_query(rng, f"q{i}", prompt_length=60) for i in range(3)]


@pytest.fixture(scope="module", params=LAYERS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def directory(kind, tmp_path_factory):
    where = tmp_path_factory.mktemp(kind) / "model"
    return tiny_model(where) if kind == "llama" else tiny_gpt(where, kind)


@pytest.fixture(scope="module")
def support(directory):
    return make_support(vocab_size=AutoConfig.from_pretrained(directory).vocab_size)


@pytest.fixture(scope="module")
def engine(kind, directory, support):
    os.environ.update(vllm_environment("cpu") | thread_environment(1))
    from gfn_ray.sampling.engine import SamplingEngine

    config = job(LAYERS[kind][0], "merged" if kind == "llama" else "auto")
    engine = SamplingEngine(
        str(directory), support, config.sampler, config.policy, device="cpu", seed=0
    )
    yield engine
    engine.close()


def test_each_version_in_any_order_is_that_of_transformers_and_peft(
    engine, kind, directory, support, queries
):
    """The base, whose B is 0, too; with all layers changed, and with a part of fused ones. What
    one version changed and the next does not has to be the base's again."""
    for layers in LAYERS[kind]:
        config = job(layers)
        base, v1, v2 = random_versions(directory, config)
        policies = {a.version: policy_of(directory, support, config, a) for a in (base, v1, v2)}
        engine.load(v2)
        for adapter in (base, v1, v2, base):
            samples = sample_version(engine, adapter, queries)
            assert mismatch(samples, queries, policies[adapter.version]) < TOLERANCE
            for other in (base, v1, v2):
                if other is not adapter:
                    wrong = mismatch(samples, queries, policies[other.version])
                    assert wrong > 100 * TOLERANCE


def refused(adapter, change):
    """The adapter after a change of its settings or tensors."""
    config, tensors = dict(adapter.config), dict(adapter.tensors)
    change(config, tensors)
    return replace(adapter, version=3, config=config, tensors=tensors)


def of_another_width(_, tensors):
    name = next(n for n in tensors if "lora_A" in n)
    tensors[name] = tensors[name][:, :-1]


def of_another_model(_, tensors):
    for name in list(tensors):
        tensors[name.replace(".0.", ".7.")] = tensors.pop(name)


def with_magnitudes(config, _):
    config["use_dora"] = True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_another_width, r"of shape .* by a product of shape .*another model than model\.name"),
        (of_another_model, r"no tensor of their own for the layer .*7\..*policy\.lora_targets"),
        (with_magnitudes, r"use_dora cannot be merged.*policy\.sync"),
    ],
)
def test_what_cannot_be_merged_is_refused_and_changes_nothing(
    change, message, engine, kind, directory, support, queries
):
    config = job(LAYERS[kind][0])
    _, v1, v2 = random_versions(directory, config)
    engine.load(v1)
    with pytest.raises(UserError, match=message):
        engine.load(refused(v2, change))
    samples = sample_version(engine, v1, queries)
    assert mismatch(samples, queries, policy_of(directory, support, config, v1)) < TOLERANCE
