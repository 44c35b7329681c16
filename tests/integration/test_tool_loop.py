"""A policy and a tool in turn, by either sampler backend: answers, their log q, what is counted."""

import os

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gfn_ray.config import LearnerConfig, PolicyConfig, SamplerConfig
from gfn_ray.errors import RunFailed
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.policy.adapter import add_adapter
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.sampling.backend import SampleRequest, start_backend
from gfn_ray.sampling.environment import thread_environment, vllm_environment
from gfn_ray.sampling.exploration import BehaviourPolicy, on_policy_behaviour
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.tasks.demonstrations import demonstration_trajectory
from gfn_ray.tasks.infill.config import InfillJob
from testing.grammars import Adder, sum_support, whole_language
from testing.makers import random_query
from testing.policies import log_pf_differences

pytestmark = pytest.mark.vllm

TOLERANCE = 1e-4  # nats; float32 engines differ by some 1e-5
JOB = InfillJob(
    policy=PolicyConfig(lora_rank=8),
    sampler=SamplerConfig(kv_cache_mb=32, max_batch=32, max_prompt_tokens=64),
    learner=LearnerConfig(lr=0.02, warmup_steps=0),
)
EXPLORING = [
    BehaviourPolicy(proposal, temperature, epsilon, seed)
    for seed in range(6)
    for proposal, temperature, epsilon in (
        ("policy", 1.0, 0.0),
        ("tempered", 1.7, 0.0),
        ("epsilon", 1.0, 0.5),
        ("epsilon", 1.0, 1.0),
    )
]


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


@pytest.fixture(scope="module")
def base(tiny_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def support(base, tokenizer):
    return sum_support(tokenizer, base.config.vocab_size)


@pytest.fixture(scope="module")
def loop(tokenizer, support):
    return ToolLoop(Adder(), tokenizer, support)


@pytest.fixture(scope="module")
def queries():
    # Longer than vLLM's cache blocks: later turns meet the prefix cache of earlier ones.
    rng = np.random.default_rng(0)
    return [random_query(rng, f"q{i}", prompt_length=60) for i in range(3)]


@pytest.fixture(scope="module")
def language(support, loop, queries):
    prompt = queries[0].prompt_ids
    return [
        demonstration_trajectory("q0", z, support) for z in whole_language(support, loop, prompt)
    ]


@pytest.fixture(scope="module")
def policy(base, support, queries, language):
    """A policy some updates away from its base: an engine without its adapter would show."""
    trainer = PolicyTrainer(add_adapter(base, JOB.policy, JOB.seed), JOB, support)
    rng = np.random.default_rng(1)
    for _ in range(3):
        chosen = [language[i] for i in rng.integers(len(language), size=8)]
        scored = [t.scored(rng.normal(-10, 5, len(t) + 1)) for t in chosen]
        trainer.step([TrajectoryGroup(queries[0].prompt_ids, scored)])
    return trainer


@pytest.fixture(scope="module", params=["vllm", "transformers"])
def engine(request, tiny_dir, support, loop, policy):
    os.environ.update(vllm_environment("cpu") | thread_environment(1))
    sampler = JOB.sampler.model_copy(update={"backend": request.param})
    job = JOB.model_copy(update={"sampler": sampler})
    engine = start_backend(job, str(tiny_dir), support, device="cpu", tool=loop)
    engine.load(policy.publish())
    yield engine
    engine.close()  # later, vLLM's end would take the next engine's process-wide state with it


VLLM_ALONE = pytest.mark.parametrize("engine", ["vllm"], indirect=True)


def sample(engine, queries, plans):
    return engine.sample([SampleRequest(query, plans) for query in queries])


@pytest.fixture(scope="module")
def samples(engine, queries):
    return sample(engine, queries, EXPLORING)


def sums_of(tokenizer, trajectory):
    """The calls of z as (left, right, answer)."""
    parts = [part.split("=") for part in tokenizer.decode(trajectory.token_ids).split(";")]
    return [(*(int(term) for term in call.split("+")), answer) for call, answer in parts]


def test_every_answer_is_the_tools_own_and_some_z_has_several(samples, tokenizer):
    sums = [sums_of(tokenizer, t) for t in samples]
    assert all(answer == str(left + right) for z in sums for left, right, answer in z)
    assert {len(z) for z in sums} == {1, 2}


def test_samples_are_inside_the_support_with_their_tool_tokens_marked(samples, support):
    for t in samples:
        assert support.contains(t.token_ids)
        assert np.array_equal(t.tool_mask, support.tool_mask(t.token_ids))
        assert np.array_equal(t.terminable, support.terminable(t.token_ids))
        assert t.tool_mask.any() and t.terminable[-1]
        assert t.stopped or len(t) == support.max_len
    assert [t.proposal for t in samples] == [plan.proposal for plan in EXPLORING] * 3


@VLLM_ALONE
def test_a_z_goes_on_as_soon_as_its_tool_has_answered(engine, queries, monkeypatch):
    """It does not wait for those that have not called theirs yet."""
    inner = engine._llm.llm_engine
    ask, step, events = inner.add_request, inner.step, []

    def asked(name, *args, **kwargs):
        events.append(("asked", name))
        return ask(name, *args, **kwargs)

    def stepped():
        outputs = step()
        events.extend(("answered", o.request_id) for o in outputs if o.finished)
        return outputs

    monkeypatch.setattr(inner, "add_request", asked)
    monkeypatch.setattr(inner, "step", stepped)
    sequences = len(sample(engine, queries, EXPLORING))
    first_turns = [events.index(("answered", str(n))) for n in range(sequences)]
    second_asks = [
        place
        for place, (what, name) in enumerate(events)
        if what == "asked" and ("asked", name) in events[:place]
    ]
    assert min(second_asks) < max(first_turns)


@VLLM_ALONE
def test_nothing_is_left_in_the_engine_where_a_call_has_no_place(
    engine, queries, tokenizer, support, monkeypatch
):
    monkeypatch.setattr(engine, "_tool", ToolLoop(Adder(limit=4), tokenizer, support))
    monkeypatch.setattr(engine._tool, "answer_ids", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sample(engine, queries, EXPLORING)
    assert not engine._llm.llm_engine.has_unfinished_requests()


def test_calls_are_counted(samples, engine, queries, tokenizer):
    again = sample(engine, queries, EXPLORING)
    assert engine.tool_calls == sum(len(sums_of(tokenizer, t)) for t in again)
    assert engine.tool_errors == 0


def test_a_call_that_fails_writes_the_error_text_and_is_counted(
    engine, queries, tokenizer, support, monkeypatch
):
    monkeypatch.setattr(engine, "_tool", ToolLoop(Adder(limit=4), tokenizer, support))
    sums = [s for t in sample(engine, queries, EXPLORING) for s in sums_of(tokenizer, t)]
    assert all(answer == ("?" if a + b > 4 else str(a + b)) for a, b, answer in sums)
    assert 0 < engine.tool_errors < engine.tool_calls == len(sums)
    assert engine.tool_errors == sum(answer == "?" for _, _, answer in sums)


def test_the_engines_log_q_is_the_learners_token_by_token_and_0_where_the_tool_wrote(
    engine, queries, policy
):
    plans = on_policy_behaviour(12, np.random.default_rng(2))
    for query in queries:
        own = sample(engine, [query], plans)
        differences = log_pf_differences(policy, TrajectoryGroup(query.prompt_ids, own))
        assert float(np.abs(differences).max()) < TOLERANCE
        assert any(t.tool_mask.any() for t in own)
        assert all((t.sampler_log_pf[t.tool_mask] == 0).all() for t in own)


def test_the_engines_log_q_of_another_proposal_is_unknown(samples):
    assert {t.proposal for t in samples} == {"policy", "tempered", "epsilon"}
    for t in samples:
        assert t.sampler_log_pf.shape == t.token_ids.shape
        assert np.isnan([*t.sampler_log_pf, t.sampler_log_stop]).all() == (t.proposal != "policy")


def test_the_adapter_shows_in_log_q(engine, queries, tiny_dir, support):
    """Else the test above could not fail."""
    fresh = AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32).eval()
    untrained = PolicyTrainer(add_adapter(fresh, JOB.policy, JOB.seed), JOB, support)
    own = sample(engine, queries[:1], on_policy_behaviour(6, np.random.default_rng(2)))
    group = TrajectoryGroup(queries[0].prompt_ids, own)
    assert float(np.abs(log_pf_differences(untrained, group)).max()) > 100 * TOLERANCE


def test_the_same_plans_give_the_same_z_alone_and_batched(samples, engine, queries):
    alone = [t for query in queries for t in sample(engine, [query], EXPLORING)]
    for a, b in zip(samples, alone, strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist()


def test_samples_follow_q_in_later_turns_too(engine, queries, policy, language, tokenizer):
    """A turn that repeated the random numbers of the one before would repeat its sum."""
    query, count = queries[0], 1000
    log_q = policy.score([TrajectoryGroup(query.prompt_ids, language)]).log_q
    drawn = sample(engine, [query], on_policy_behaviour(count, np.random.default_rng(3)))

    def repeats(trajectory):
        sums = sums_of(tokenizer, trajectory)
        return len(sums) == 2 and sums[0] == sums[1]

    for event in (repeats, lambda t: len(sums_of(tokenizer, t)) == 2):
        share = float(np.mean([event(t) for t in drawn]))
        exact = float(np.exp(log_q)[[event(t) for t in language]].sum())
        assert 0.01 < exact < 0.99
        assert abs(share - exact) < 4 * np.sqrt(exact * (1 - exact) / count)


def test_a_support_that_waits_for_a_tool_which_nothing_calls_says_so(engine, queries, monkeypatch):
    """An engine's last test: vLLM keeps what an error left unfinished."""
    calls = "_triggers" if hasattr(engine, "_triggers") else "_tool"
    monkeypatch.setattr(engine, calls, None if calls == "_tool" else set())
    with pytest.raises(RunFailed, match="leaves the next token of z to a tool"):
        sample(engine, queries, EXPLORING)
