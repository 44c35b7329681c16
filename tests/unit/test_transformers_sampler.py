"""Sampling by transformers: what is its own. That it keeps a sampler's promises, with a tool too,
is in test_tool_loop.py, beside vLLM."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from gfn_ray.config import PolicyConfig, SamplerConfig
from gfn_ray.decoding.frontier import Frontier
from gfn_ray.errors import UserError
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.policy.adapter import add_adapter
from gfn_ray.sampling.backend import SampleRequest, start_backend
from gfn_ray.sampling.exploration import BehaviourPolicy
from gfn_ray.tasks.infill.config import InfillJob
from testing.makers import make_support, random_query
from testing.policies import load

JOB = InfillJob(
    policy=PolicyConfig(lora_rank=8), sampler=SamplerConfig(backend="transformers", max_batch=32)
)


@pytest.mark.parametrize(("temperature", "epsilon"), [(0.5, 0.0), (2.0, 0.0), (1.0, 1.0)])
def test_a_first_token_follows_the_plans_distribution(tiny_dir, temperature, epsilon):
    """epsilon 1: every legal action alike."""
    model = load(tiny_dir)
    support = make_support(vocab_size=model.config.vocab_size, min_len=1, max_len=1)
    query = random_query(np.random.default_rng(5), "q")
    made = start_backend(JOB, str(tiny_dir), support, device="cpu", tool=None)
    trainer = PolicyTrainer(add_adapter(load(tiny_dir), JOB.policy, JOB.seed), JOB, support)
    made.load(trainer.publish())
    kind = "epsilon" if epsilon else "tempered"
    plans = [BehaviourPolicy(kind, temperature, epsilon, seed) for seed in range(2000)]
    drawn = np.array([t.token_ids[0] for t in made.sample([SampleRequest(query, plans)])])
    log_p = Frontier(model, support, [query.prompt_ids]).log_probs[0].double()
    legal = torch.isfinite(log_p)
    p = (legal / legal.sum() if epsilon else torch.softmax(log_p / temperature, 0)).numpy()
    for half in (p >= np.median(p[p > 0]), np.arange(len(p)) % 2 == 0):
        exact = min(1.0, p[half].sum())  # rounding may take it past 1
        share = half[drawn].mean()
        assert abs(share - exact) < 4 * np.sqrt(exact * (1 - exact) / len(drawn)) + 1e-12


def test_nothing_is_sampled_before_an_adapter_is_loaded(tiny_dir):
    support = make_support(vocab_size=load(tiny_dir).config.vocab_size)
    query = random_query(np.random.default_rng(5), "q")
    made = start_backend(JOB, str(tiny_dir), support, device="cpu", tool=None)
    with pytest.raises(RuntimeError, match="before load"):
        made.sample([SampleRequest(query, [BehaviourPolicy("policy", 1.0, 0.0, 0)])])


def test_a_model_that_reads_no_cache_is_refused(tmp_path, tiny_dir):
    """Recurrent: what a padded prompt leaves in its state is not the prompt's alone."""
    from transformers import RwkvConfig, RwkvForCausalLM

    support = make_support(vocab_size=load(tiny_dir).config.vocab_size)
    torch.manual_seed(0)
    shape = dict(hidden_size=32, num_hidden_layers=2, attention_hidden_size=32)
    RwkvForCausalLM(RwkvConfig(vocab_size=support.masks.shape[1], **shape)).save_pretrained(
        tmp_path
    )
    AutoTokenizer.from_pretrained(tiny_dir).save_pretrained(tmp_path)
    policy = PolicyConfig(lora_rank=8, lora_targets=("key", "value"))
    job = JOB.model_copy(update={"policy": policy})
    with pytest.raises(UserError, match="cannot be sampled with a key-value cache"):
        start_backend(job, str(tmp_path), support, device="cpu", tool=None)
