"""The real vLLM engine: the support holds, log-probs are log q, adapter swaps are clean."""

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from gfn_ray.config import LearnerConfig, PolicyConfig, SamplerConfig
from gfn_ray.errors import RunFailed, UserError
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.policy.adapter import Adapter, add_adapter
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.runtime.actors.learner_actor import LearnerActor
from gfn_ray.runtime.supervision.device_errors import is_device_error
from gfn_ray.runtime.training.engine_check import EngineCheck
from gfn_ray.sampling.architectures import WELL_KNOWN, says_no_adapter, takes_adapters
from gfn_ray.sampling.environment import thread_environment, vllm_environment
from gfn_ray.sampling.exploration import (
    BehaviourPolicy,
    exploration_behaviours,
    on_policy_behaviour,
)
from gfn_ray.sampling.partial_sequence import PartialSequence
from gfn_ray.storage.trajectories import pack_trajectories
from gfn_ray.tasks.infill.config import InfillJob
from testing import engines
from testing.engines import mismatch, requests, sample_version
from testing.makers import make_support, random_query, random_trajectories

pytestmark = pytest.mark.vllm

# Nats a sample, of a log q of some -30: float32 engines differ by a few millionths of it.
TOLERANCE = 3e-4
JOB = InfillJob(
    policy=PolicyConfig(lora_rank=8),
    sampler=SamplerConfig(kv_cache_mb=32, max_batch=96, max_prompt_tokens=64),
    learner=LearnerConfig(lr=0.05, warmup_steps=0),
)


def load(directory):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def support(tiny_dir):
    return make_support(vocab_size=load(tiny_dir).config.vocab_size)


@pytest.fixture(scope="module")
def engine(tiny_dir, support):
    os.environ.update(vllm_environment("cpu") | thread_environment(1))
    from gfn_ray.sampling.engine import SamplingEngine

    engine = SamplingEngine(str(tiny_dir), support, JOB.sampler, JOB.policy, device="cpu", seed=0)
    yield engine
    engine.close()  # later, its end would take the next engine's process-wide state with it


@pytest.fixture(scope="module")
def queries():
    rng = np.random.default_rng(0)
    # vLLM caches whole blocks of 16 tokens: shorter prompts would never meet a stale cache.
    return [random_query(rng, f"q{i}", prompt_length=60) for i in range(3)]


@pytest.fixture(scope="module")
def trainer(tiny_dir, support):
    return PolicyTrainer(add_adapter(load(tiny_dir), JOB.policy, JOB.seed), JOB, support)


@pytest.fixture(scope="module")
def versions(trainer, queries, support) -> list[Adapter]:
    """Three adapters far apart: untrained, and after large updates on random rewards."""
    rng = np.random.default_rng(1)
    made = [trainer.publish()]
    for _ in range(2):
        for _ in range(5):
            groups = [
                TrajectoryGroup(
                    query.prompt_ids,
                    [
                        t.scored(rng.normal(-20, 10, len(t) + 1))
                        for t in random_trajectories(rng, support, query.query_id, 6)
                    ],
                )
                for query in queries
            ]
            trainer.step(groups)
        made.append(trainer.publish())
    return made


@pytest.fixture(scope="module")
def first_update(tiny_dir, support, queries) -> list[Adapter]:
    """The untrained adapter, and the one after the first update that a run makes by default."""
    learner = InfillJob().learner
    job = JOB.model_copy(update={"learner": learner})
    trainer = PolicyTrainer(add_adapter(load(tiny_dir), job.policy, job.seed), job, support)
    rng, made = np.random.default_rng(4), [trainer.publish()]
    groups = [
        TrajectoryGroup(
            query.prompt_ids,
            [
                t.scored(rng.normal(-20, 10, len(t) + 1))
                for t in random_trajectories(rng, support, query.query_id, 6)
            ],
        )
        for query in queries
    ]
    trainer.step(groups)
    return [*made, trainer.publish()]


@pytest.fixture(scope="module")
def learner(tiny_dir, support, queries) -> LearnerActor:
    """The learner's actor in this process, at weights of its own."""
    model = JOB.model.model_copy(update={"name": str(tiny_dir)})
    job = JOB.model_copy(update={"model": model})
    actor = LearnerActor(job, "cpu", None, support, queries)
    actor.load()
    return actor


def policy_of(tiny_dir, support, adapter: Adapter) -> PolicyTrainer:
    return engines.policy_of(tiny_dir, support, JOB, adapter)


def test_the_death_of_an_engine_is_told_by_vllms_own_error():
    from vllm.v1.engine.exceptions import EngineDeadError

    assert is_device_error(EngineDeadError())


def test_after_every_swap_the_engine_has_exactly_the_learners_weights(
    engine, queries, versions, tiny_dir, support
):
    """Old, newer, and an old version again: no weights and no prefix cache may linger."""
    for index in (0, 1, 2, 0, 2, 1):
        samples = sample_version(engine, versions[index], queries)
        assert {t.policy_version for t in samples} == {index}
        assert mismatch(samples, queries, policy_of(tiny_dir, support, versions[index])) < TOLERANCE


def test_one_version_number_with_other_weights_meets_no_cache_of_its_predecessor(
    engine, queries, versions, tiny_dir, support
):
    """As after a learner went back to a checkpoint: the name alone does not tell them apart."""
    sample_version(engine, versions[1], queries)
    sample_version(engine, versions[2], queries)
    renamed = Adapter(1, versions[0].config, versions[0].tensors)
    samples = sample_version(engine, renamed, queries)
    engine.load(versions[0])  # the engine believed it had version 1; later tests load that
    assert mismatch(samples, queries, policy_of(tiny_dir, support, versions[0])) < TOLERANCE


def test_more_prompts_than_one_step_of_the_engine_takes_are_sampled_like_any(
    engine, versions, tiny_dir, support
):
    """4,096 tokens a step. On a CPU, vLLM cannot cut the prompt of a seeded request in two."""
    rng = np.random.default_rng(2)
    many = [random_query(rng, f"many{i}", prompt_length=60) for i in range(80)]
    engine.load(versions[1])
    samples = engine.sample(requests(many, on_policy_behaviour(1, rng)))
    assert [t.query_id for t in samples] == [query.query_id for query in many]
    some = many[-3:]
    own = [t for t in samples if t.query_id in {query.query_id for query in some}]
    assert mismatch(own, some, policy_of(tiny_dir, support, versions[1])) < TOLERANCE


def test_the_versions_are_far_apart(engine, queries, versions, tiny_dir, support):
    """Else it could not fail: a stale adapter must show by much more than the tolerance."""
    samples = sample_version(engine, versions[1], queries)
    for other in (0, 2):
        stale = mismatch(samples, queries, policy_of(tiny_dir, support, versions[other]))
        assert stale > 100 * TOLERANCE


def test_the_public_way_of_loading_gives_the_same_weights(
    engine, queries, versions, tiny_dir, support, monkeypatch
):
    swap = engine.swap
    monkeypatch.setattr(swap, "_load", swap.load_from_files)
    for index in (1, 2):
        samples = sample_version(engine, versions[index], queries, seed=5)
        assert mismatch(samples, queries, policy_of(tiny_dir, support, versions[index])) < TOLERANCE


def test_a_swap_leaves_the_tensors_it_was_given_unchanged(engine, versions):
    """vLLM folds alpha / r into the tensors it is handed; here alpha / r is 4."""
    kept = {name: array.copy() for name, array in versions[1].tensors.items()}
    engine.load(versions[0])
    engine.load(versions[1])
    assert all(np.array_equal(kept[name], versions[1].tensors[name]) for name in kept)


def renamed(adapter: Adapter) -> Adapter:
    """With another prefix, as of a model that is wrapped in one more module."""
    tensors = {
        name.replace("base_model.model.", "base_model.model.inner.", 1): array
        for name, array in adapter.tensors.items()
    }
    return replace(adapter, tensors=tensors)


def test_an_adapter_of_which_the_engine_has_no_layer_is_refused_and_changes_nothing(
    engine, queries, versions, tiny_dir, support
):
    engine.load(versions[1])
    with pytest.raises(UserError, match=r"no layer 'inner\.model\.layers\.0.*policy\.lora_targets"):
        engine.load(renamed(versions[2]))
    samples = sample_version(engine, versions[1], queries)
    assert mismatch(samples, queries, policy_of(tiny_dir, support, versions[1])) < TOLERANCE


def judged(learner, samples, versions) -> tuple[list[float], list[str]]:
    """What was recorded and said of samples that the engine is believed to have made by the last
    of these versions."""
    kls, said = [], []
    check = EngineCheck(JOB, "cpu", kls.append, said.append)
    *before, new = versions
    found = learner.compare(pack_trajectories(samples), new, *before[-1:])
    check.judge(versions[-1].version, found)
    return kls, said


def test_an_engine_with_the_newest_weights_is_found_to_have_them(
    engine, queries, versions, first_update, learner
):
    for pair in (versions[:2], versions[1:], first_update):
        engine.load(versions[0])  # two fixtures have a version 1
        kls, said = judged(learner, sample_version(engine, pair[-1], queries), pair)
        assert kls[0] < TOLERANCE**2 and not said


def test_tensors_that_are_dropped_on_the_way_end_the_run_after_its_first_update(
    engine, queries, versions, first_update, learner, monkeypatch
):
    """The public way of loading looks at the last part of a name alone: vLLM takes such an adapter
    without a word, and goes on with the base model."""
    engine.load(versions[0])
    monkeypatch.setattr(engine.swap, "_load", engine.swap.load_from_files)
    samples = sample_version(engine, renamed(first_update[1]), queries)
    with pytest.raises(RunFailed, match=r"version 1 did not reach.*: 16 of .*since the base"):
        judged(learner, samples, first_update)


def test_an_engine_that_stays_at_the_version_before_ends_the_run(
    engine, queries, versions, learner
):
    samples = sample_version(engine, replace(versions[1], version=2), queries)
    with pytest.raises(RunFailed, match=r"version 2 did not reach.*: 16 of .*since version 1;"):
        judged(learner, samples, versions)


def test_a_part_of_the_tensors_that_is_dropped_raises_the_alarm(engine, queries, versions, learner):
    kept = {n: a for n, a in versions[1].tensors.items() if "v_proj" not in n}
    engine.load(versions[0])
    samples = sample_version(engine, replace(versions[1], tensors=kept), queries)
    _, (line,) = judged(learner, samples, versions[:2])
    assert "rounding in float32 stays below 0.0001" in line


def test_the_learner_has_its_own_weights_again_after_a_comparison(
    engine, queries, versions, learner
):
    samples = sample_version(engine, versions[1], queries)
    before, _ = learner.publish()
    judged(learner, samples, versions[:2])
    after, _ = learner.publish()
    for name, array in before.tensors.items():
        assert np.array_equal(array, after.tensors[name])


def test_rows_without_an_adapter_in_a_mixed_batch_read_the_base_model(
    engine, queries, versions, tiny_dir, support
):
    """vLLM's own CPU kernels give such rows the adapter; ours must not."""
    engine.load(versions[2])
    plans = on_policy_behaviour(1, np.random.default_rng(2))
    sequences = [PartialSequence(query, plans[0]) for query in queries for _ in range(2)]
    outputs = engine._llm.generate(
        [{"prompt_token_ids": sequence.query.prompt_ids.tolist()} for sequence in sequences],
        [engine._params(sequence) for sequence in sequences],
        lora_request=[engine._lora, None] * len(queries),
        use_tqdm=False,
    )
    for sequence, output in zip(sequences, outputs, strict=True):
        engine._extend(sequence, output.outputs[0])
    for version, rows in ((versions[2], sequences[::2]), (versions[0], sequences[1::2])):
        samples = [sequence.trajectory(support, engine.version) for sequence in rows]
        assert mismatch(samples, queries, policy_of(tiny_dir, support, version)) < TOLERANCE


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_every_sample_is_inside_the_support_whatever_the_exploration(
    engine, queries, versions, support, epsilon
):
    engine.load(versions[1])
    plans = [
        BehaviourPolicy("epsilon", temperature, epsilon, s)
        for s, temperature in enumerate([0.5, 1.0, 1.5, 2.0] * 2)
    ]
    samples = engine.sample(requests(queries, plans))
    assert all(support.contains(t.token_ids) for t in samples)
    assert all(t.stopped or len(t) == support.max_len for t in samples)
    assert all(np.array_equal(t.terminable, support.terminable(t.token_ids)) for t in samples)


def test_at_epsilon_one_the_first_token_is_uniform_over_what_is_legal(
    engine, queries, versions, support
):
    engine.load(versions[1])
    plans = [BehaviourPolicy("epsilon", 1.0, 1.0, seed) for seed in range(400)]
    samples = engine.sample(requests(queries[:1], plans))
    firsts = np.array([t.token_ids[0] for t in samples])
    legal = np.flatnonzero(support.opening)
    halves = (firsts < np.median(legal)).mean()
    assert len(np.unique(firsts)) > 0.4 * min(len(legal), 400)
    assert 0.4 < halves < 0.6


def test_at_epsilon_one_to_stop_is_one_action_whatever_tokens_spell_it(engine, support):
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate

    from gfn_ray.sampling.support_processor import SupportConfig, SupportProcessor

    z = [int(np.flatnonzero(support.opening)[0]), int(np.flatnonzero(support.enders)[0])]
    assert support.terminable(np.array(z))[-1] and len(support.stop_ids) == 2
    vllm_config = SimpleNamespace(additional_config=SupportConfig(support))
    processor = SupportProcessor(vllm_config, torch.device("cpu"), False)
    params = SamplingParams(extra_args={"epsilon": 1.0, "epsilon_seed": 0, "z": z})
    added = [(0, params, None, [])]
    processor.update_state(BatchUpdate(batch_size=1, removed=[], added=added, moved=[]))
    logits = torch.randn(1, len(support.content), generator=torch.Generator().manual_seed(0))
    p = processor.apply(logits)[0].softmax(0)
    assert p[support.stop_ids].sum().item() == pytest.approx(1 / (support.content.sum() + 1))


def test_the_same_plans_give_the_same_samples_alone_and_batched(engine, queries, versions):
    engine.load(versions[1])
    (plans,) = exploration_behaviours(JOB.sampler, 1, np.random.default_rng(3))
    together = engine.sample(requests(queries, plans))
    alone = [t for query in queries for t in engine.sample(requests([query], plans))]
    for a, b in zip(together, alone, strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist()


def test_trajectories_of_one_query_compute_their_prompt_once(
    engine, queries, versions, monkeypatch
):
    engine.load(versions[1])
    inner = engine._llm.llm_engine
    step, cached = inner.step, {}

    def watched():
        outputs = step()
        cached.update({o.request_id: o.num_cached_tokens for o in outputs if o.finished})
        return outputs

    monkeypatch.setattr(inner, "step", watched)
    engine._llm.reset_prefix_cache()
    engine.sample(requests(queries[:1], on_policy_behaviour(8, np.random.default_rng(3))))
    blocks = 48  # tokens of whole blocks of 16, of which a prompt of 60 has three
    assert sorted(cached.values()) == [0, *[blocks] * 7]


# --- Which models it takes, before it starts ---


@pytest.mark.parametrize(
    "architecture",
    [*WELL_KNOWN, "GPT2LMHeadModel", "GPTJForCausalLM", "BloomForCausalLM", "GPTNeoXForCausalLM"],
)
def test_what_is_read_of_an_architecture_is_what_vllm_holds_of_it(architecture, engine):
    from vllm.model_executor.models.interfaces import supports_lora
    from vllm.model_executor.models.registry import ModelRegistry

    known = supports_lora(ModelRegistry.models[architecture].load_model_cls())
    assert takes_adapters(architecture) is known


def test_vllms_own_refusals_of_a_model_are_known_for_such(engine):
    from vllm.model_executor.models.registry import ModelRegistry
    from vllm.v1.worker.lora_model_runner_mixin import LoRAModelRunnerMixin

    refusals = [
        lambda: LoRAModelRunnerMixin().load_lora_model(torch.nn.Linear(1, 1), None, None),
        lambda: ModelRegistry._raise_for_unsupported(["NopeForCausalLM"]),
        lambda: ModelRegistry._raise_for_unsupported(["MPTForCausalLM"]),
    ]
    for refuse in refusals:
        with pytest.raises(ValueError) as refused:
            refuse()
        assert says_no_adapter(str(refused.value))
