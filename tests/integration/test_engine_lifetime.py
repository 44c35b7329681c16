"""Engines one after another in one process: a closed one leaves the next alone."""

import gc
import os

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from gfn_ray.config import PolicyConfig, SamplerConfig
from gfn_ray.errors import UserError
from gfn_ray.policy.adapter import add_adapter, read_adapter
from gfn_ray.sampling.environment import thread_environment, vllm_environment
from gfn_ray.sampling.exploration import on_policy_behaviour
from testing.makers import make_support, random_query
from testing.tiny import tiny_model

pytestmark = pytest.mark.vllm


def test_a_closed_engine_that_is_collected_late_takes_nothing_from_the_next(tiny_dir):
    os.environ.update(vllm_environment("cpu") | thread_environment(1))
    from gfn_ray.sampling.backend import SampleRequest
    from gfn_ray.sampling.engine import SamplingEngine

    base = AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32)
    support = make_support(vocab_size=base.config.vocab_size)
    policy = PolicyConfig(lora_rank=8)
    adapter = read_adapter(add_adapter(base, policy, 0), 0)
    sampler = SamplerConfig(kv_cache_mb=32, max_batch=8, max_prompt_tokens=64)

    def start():
        engine = SamplingEngine(str(tiny_dir), support, sampler, policy, device="cpu", seed=0)
        engine.load(adapter)
        return engine

    first = start()
    gc.disable()  # what the first leaves is collected only where this test says so
    try:
        first.close()
        del first
        second = start()
        gc.collect()
        query = random_query(np.random.default_rng(0), "q")
        plans = on_policy_behaviour(2, np.random.default_rng(0))
        assert len(second.sample([SampleRequest(query, plans)])) == 2
        second.close()
    finally:
        gc.enable()


def test_a_cache_that_holds_no_prompt_names_the_settings(tmp_path):
    os.environ.update(vllm_environment("cpu") | thread_environment(1))
    from gfn_ray.sampling.engine import SamplingEngine

    deep = tiny_model(tmp_path / "deep", num_hidden_layers=80)  # 40 KiB of cache a token
    support = make_support(vocab_size=AutoConfig.from_pretrained(deep).vocab_size)
    sampler = SamplerConfig(kv_cache_mb=16, max_batch=8, max_prompt_tokens=480)
    with pytest.raises(UserError, match=r"kv_cache_mb \(16\).*max_prompt_tokens \(480\)"):
        SamplingEngine(str(deep), support, sampler, PolicyConfig(lora_rank=8), device="cpu", seed=0)
