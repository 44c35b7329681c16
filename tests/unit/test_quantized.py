"""A base of 8 or 4 bits: what is refused, and, where bitsandbytes is installed, that it learns."""

import importlib.util

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from gfn_ray.config import PolicyConfig, RewardConfig
from gfn_ray.config.sections import LearnerConfig, ModelConfig
from gfn_ray.errors import UserError
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.models.loading import load_causal_lm
from gfn_ray.policy.adapter import add_adapter, put_adapter, read_adapter
from gfn_ray.policy.lora_linear import LoraLinear
from gfn_ray.runtime.planning import memory
from gfn_ray.runtime.planning.shapes import KNOWN
from gfn_ray.runtime.resources.cluster import check_resources
from gfn_ray.tasks.infill.config import InfillJob
from testing.makers import make_support
from testing.policies import groups_of, job

INSTALLED = importlib.util.find_spec("bitsandbytes") is not None


def quantised(bits="4bit", **more):
    return InfillJob(model=ModelConfig(quantization=bits), **more)


def test_on_a_cpu_it_is_refused():
    with pytest.raises(UserError, match=r"model\.quantization is 4bit, which needs CUDA"):
        check_resources(quantised(), "cpu", grows=True)


def test_on_a_cpu_a_reward_model_over_several_gpus_is_refused():
    config = InfillJob(reward=RewardConfig(gpus=2))
    with pytest.raises(UserError, match=r"reward\.gpus \(2\).*run on CPUs"):
        check_resources(config, "cpu", grows=True)


@pytest.mark.parametrize("gpus", [1.5, 2.2])
def test_of_several_gpus_a_reward_actor_has_whole_ones(gpus):
    with pytest.raises(ValidationError, match=r"not a whole number of them; use \d or \d"):
        RewardConfig(gpus=gpus)


@pytest.mark.skipif(INSTALLED, reason="bitsandbytes is installed")
def test_without_its_package_it_is_refused_with_the_command_that_installs_it():
    with pytest.raises(UserError, match=r"pip install 'gfn_ray\[quantized\]'"):
        check_resources(quantised(), "cuda", grows=True)


def test_it_is_not_spread_over_learners():
    with pytest.raises(ValidationError, match=r"learner\.shard does not go with model\.quant"):
        quantised(learners=2, learner=LearnerConfig(shard=True))


def test_a_plan_counts_its_bits_and_the_gpus_that_share_a_reward_model():
    seventy = KNOWN["70b"]
    whole, eight, four = (
        memory.reward(seventy, config, 150).parts["weights"]
        for config in (InfillJob(), quantised("8bit"), quantised("4bit"))
    )
    body = seventy.parameters - seventy.outside
    assert whole - eight == pytest.approx(body)
    assert whole - four == pytest.approx(1.484 * body, rel=1e-3)
    two = InfillJob(reward=RewardConfig(gpus=2))
    assert memory.reward(seventy, two, 150).parts["weights"] == whole / 2


@pytest.mark.skipif(not INSTALLED, reason="bitsandbytes is an extra")
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_a_policy_on_it_has_layers_of_peft_and_learns(tiny_dir, bits):
    """On a CPU, where gradients do not pass through layers of 4 bits: the last one's still do."""
    base = load_causal_lm(str(tiny_dir), "float32", "cpu", False, bits)
    support = make_support(vocab_size=base.config.vocab_size)
    assert type(base.lm_head) is torch.nn.Linear
    policy = add_adapter(base, PolicyConfig(lora_rank=8), 0)
    assert not any(isinstance(module, LoraLinear) for module in policy.modules())
    trainer, groups = PolicyTrainer(policy, job(), support), groups_of(support)
    losses = [trainer.step(groups).metrics["loss"] for _ in range(5)]
    assert losses[-1] < losses[0] / 2
    adapter = read_adapter(policy, 1)
    put_adapter(policy, adapter)
    found = read_adapter(policy, 1).tensors
    assert all(np.array_equal(found[name], array) for name, array in adapter.tensors.items())
