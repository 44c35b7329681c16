"""Sampling by transformers: inside the support, by the policy's log q, with the tool's answers."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from gfn_ray.config import InfillJob, LearnerConfig, PolicyConfig, SamplerConfig
from gfn_ray.decoding.frontier import Frontier
from gfn_ray.errors import RunFailed, UserError
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.policy.adapter import add_adapter
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.sampling.backend import SampleRequest, start_backend
from gfn_ray.sampling.exploration import ProposalPlan, on_policy_plan
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.sampling.transformers_sampler import TransformersSampler
from gfn_ray.tasks.references import known_trajectory
from testing.grammars import Adder, sum_support, whole_language
from testing.makers import make_support, random_query
from testing.policies import load

TOLERANCE = 1e-4  # nats; float32 forwards of other shapes differ by some 1e-5
JOB = InfillJob(
    policy=PolicyConfig(lora_rank=8),
    sampler=SamplerConfig(backend="transformers", max_batch=32),
    learner=LearnerConfig(lr=0.02, warmup_steps=0),
)
EXPLORING = [
    ProposalPlan(proposal, temperature, epsilon, seed)
    for seed in range(4)
    for proposal, temperature, epsilon in (
        ("policy", 1.0, 0.0),
        ("tempered", 1.7, 0.0),
        ("epsilon", 1.0, 0.5),
    )
]


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


@pytest.fixture(scope="module")
def support(tokenizer, tiny_dir):
    return sum_support(tokenizer, load(tiny_dir).config.vocab_size)


@pytest.fixture(scope="module")
def loop(tokenizer, support):
    return ToolLoop(Adder(), tokenizer, support)


@pytest.fixture(scope="module")
def queries():
    rng = np.random.default_rng(0)
    return [random_query(rng, f"q{i}", prompt_length=10 + 7 * i) for i in range(3)]


@pytest.fixture(scope="module")
def language(support, loop, queries):
    prompt = queries[0].prompt_ids
    return [known_trajectory("q0", z, support) for z in whole_language(support, loop, prompt)]


@pytest.fixture(scope="module")
def policy(tiny_dir, support, queries, language):
    """A policy some updates away from its base: a sampler without its adapter would show."""
    trainer = PolicyTrainer(add_adapter(load(tiny_dir), JOB.policy, JOB.seed), JOB, support)
    rng = np.random.default_rng(1)
    for _ in range(3):
        chosen = [language[i] for i in rng.integers(len(language), size=8)]
        scored = [t.scored(rng.normal(-10, 5, len(t) + 1)) for t in chosen]
        trainer.step([TrajectoryGroup(queries[0].prompt_ids, scored)])
    return trainer


@pytest.fixture(scope="module")
def sampler(tiny_dir, support, loop, policy):
    made = start_backend(JOB, str(tiny_dir), support, device="cpu", tool=loop)
    assert isinstance(made, TransformersSampler)
    made.load(policy.publish())
    return made


def sample(sampler, queries, plans):
    return sampler.sample([SampleRequest(query, plans) for query in queries])


def test_samples_are_inside_the_support_and_sums_are_the_tools(
    sampler, queries, support, tokenizer
):
    found = sample(sampler, queries, EXPLORING)
    assert [t.query_id for t in found] == [q.query_id for q in queries for _ in EXPLORING]
    calls = 0
    for t in found:
        assert support.contains(t.token_ids)
        assert np.array_equal(t.tool_mask, support.tool_mask(t.token_ids))
        assert t.stopped or len(t) == support.max_len
        for part in tokenizer.decode(t.token_ids).split(";"):
            call, answer = part.split("=")
            assert answer == str(sum(int(term) for term in call.split("+")))
            calls += 1
    assert (sampler.tool_calls, sampler.tool_errors) == (calls, 0)


def test_log_q_is_the_learners(sampler, queries, policy):
    for query in queries:
        own = sample(sampler, [query], on_policy_plan(12, np.random.default_rng(2)))
        scores = policy.score([TrajectoryGroup(query.prompt_ids, own)])
        known = np.array([t.sampler_log_pf for t in own])
        assert np.abs(scores.log_pf - known).max() < TOLERANCE
        whole = known + [t.sampler_log_stop for t in own]
        assert np.abs(scores.log_q - whole).max() < TOLERANCE


def test_the_adapter_shows_in_log_q(sampler, queries, tiny_dir, support):
    """Else the test above could not fail."""
    untrained = PolicyTrainer(add_adapter(load(tiny_dir), JOB.policy, JOB.seed), JOB, support)
    own = sample(sampler, queries[:1], on_policy_plan(6, np.random.default_rng(2)))
    scores = untrained.score([TrajectoryGroup(queries[0].prompt_ids, own)])
    assert np.abs(scores.log_pf - [t.sampler_log_pf for t in own]).max() > 100 * TOLERANCE


def test_the_same_plans_give_the_same_z_alone_and_among_others(sampler, queries):
    together = sample(sampler, queries, EXPLORING)
    alone = [t for query in queries for t in sample(sampler, [query], EXPLORING)]
    for a, b in zip(together, alone, strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist()


def test_samples_follow_q(sampler, queries, policy, language):
    """Total variation of so many draws from a distribution of so many z, at most."""
    count = 600
    log_q = policy.score([TrajectoryGroup(queries[0].prompt_ids, language)]).log_q
    q = np.exp(log_q)
    assert q.sum() == pytest.approx(1, abs=1e-3)
    index = {t.token_ids.tobytes(): i for i, t in enumerate(language)}
    drawn = sample(sampler, queries[:1], on_policy_plan(count, np.random.default_rng(3)))
    shares = np.bincount([index[t.token_ids.tobytes()] for t in drawn], minlength=len(q)) / count
    expected = 0.5 * np.sqrt(2 / np.pi) * np.sqrt(q * (1 - q) / count).sum()
    assert 0.5 * np.abs(shares - q).sum() < 1.5 * expected


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
    plans = [ProposalPlan(kind, temperature, epsilon, seed) for seed in range(2000)]
    drawn = np.array([t.token_ids[0] for t in sample(made, [query], plans)])
    log_p = Frontier(model, support, [query.prompt_ids]).log_probs[0].double()
    legal = torch.isfinite(log_p)
    p = (legal / legal.sum() if epsilon else torch.softmax(log_p / temperature, 0)).numpy()
    for half in (p >= np.median(p[p > 0]), np.arange(len(p)) % 2 == 0):
        exact = p[half].sum()
        share = half[drawn].mean()
        assert abs(share - exact) < 4 * np.sqrt(exact * (1 - exact) / len(drawn)) + 1e-12


def test_nothing_is_sampled_before_an_adapter_is_loaded(tiny_dir, support, queries):
    made = start_backend(JOB, str(tiny_dir), support, device="cpu", tool=None)
    with pytest.raises(RuntimeError, match="before load"):
        sample(made, queries, EXPLORING)


def test_a_model_that_reads_no_cache_is_refused(tmp_path, support, tokenizer):
    """Recurrent: what a padded prompt leaves in its state is not the prompt's alone."""
    from transformers import RwkvConfig, RwkvForCausalLM

    torch.manual_seed(0)
    shape = dict(hidden_size=32, num_hidden_layers=2, attention_hidden_size=32)
    RwkvForCausalLM(RwkvConfig(vocab_size=support.masks.shape[1], **shape)).save_pretrained(
        tmp_path
    )
    tokenizer.save_pretrained(tmp_path)
    policy = PolicyConfig(lora_rank=8, lora_targets=("key", "value"))
    job = JOB.model_copy(update={"policy": policy})
    with pytest.raises(UserError, match="cannot be sampled from with a key-value cache"):
        start_backend(job, str(tmp_path), support, device="cpu", tool=None)


def test_a_support_that_waits_for_a_tool_which_nothing_calls_says_so(
    tiny_dir, support, queries, policy
):
    made = start_backend(JOB, str(tiny_dir), support, device="cpu", tool=None)
    made.load(policy.publish())
    with pytest.raises(RunFailed, match="leaves the next token of z to a tool"):
        sample(made, queries, EXPLORING)
