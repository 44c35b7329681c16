"""z of 512 tokens: sampled, rewarded and learned from, within the tokens of a forward pass."""

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from gfn_ray.config import (
    EvalConfig,
    LearnerConfig,
    PolicyConfig,
    RewardConfig,
    SamplerConfig,
)
from gfn_ray.learners.split_group import parts
from gfn_ray.packing import forward
from gfn_ray.policy import log_q as policy_log_q
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.sampling.backend import SampleRequest, start_backend
from gfn_ray.sampling.exploration import on_policy_behaviour
from gfn_ray.tasks.prompts.config import PromptsConfig, PromptsJob
from gfn_ray.tasks.prompts.task import PromptsTask
from testing.policies import lora_trainer
from testing.tiny import tiny_model

LONGEST, BUDGET, GROUP = 512, 1024, 6


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """The tiny model with room for a prompt and such a z."""
    return tiny_model(tmp_path_factory.mktemp("long") / "model", max_position_embeddings=1024)


@pytest.fixture(scope="module")
def config():
    return PromptsJob(
        policy=PolicyConfig(lora_rank=8),
        task=PromptsConfig(max_len=LONGEST, reward=("contains",)),
        sampler=SamplerConfig(backend="transformers", max_prompt_tokens=300),
        reward=RewardConfig(tokens_per_forward=BUDGET),
        learner=LearnerConfig(tokens_per_forward=BUDGET),
        eval=EvalConfig(queries=2),
    )


@pytest.fixture(scope="module")
def group(model_dir, config):
    """A query with its scored trajectories, as the actors would have made them."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    data = PromptsTask(config).load(tokenizer, len(tokenizer))
    base = AutoModelForCausalLM.from_pretrained(model_dir)
    backend = start_backend(config, str(model_dir), data.support, device="cpu", tool=None)
    backend.load(lora_trainer(base, config, data.support).publish())
    plan = on_policy_behaviour(GROUP, np.random.default_rng(0))
    query = data.train[0]
    drawn = backend.sample([SampleRequest(query, plan)])
    data.reward.load(lambda: AutoModelForCausalLM.from_pretrained(model_dir).eval())
    return data.support, query, data.reward.score([(query, z) for z in drawn])


def test_z_are_hundreds_of_tokens_and_each_has_a_log_r(group):
    support, _, scored = group
    lengths = [len(z) for z in scored]
    assert max(lengths) == LONGEST and np.median(lengths) > LONGEST / 2
    assert all(support.contains(z.token_ids) for z in scored)
    assert [z.reward_fault for z in scored] == [None] * GROUP


def test_an_update_reads_no_more_tokens_at_once_than_it_may(group, model_dir, config, monkeypatch):
    """Counted where every forward pass goes through, which is run as it is."""
    support, query, scored = group
    learned = TrajectoryGroup(query.prompt_ids, scored)
    assert learned.packed_tokens > 2 * BUDGET and len(parts(learned, BUDGET)) > 2
    read = []

    def counted(model, tree, *args, **kwargs):
        read.append(len(tree))
        return forward.tree_log_probs(model, tree, *args, **kwargs)

    monkeypatch.setattr(policy_log_q, "tree_log_probs", counted)
    trainer = lora_trainer(AutoModelForCausalLM.from_pretrained(model_dir), config, support)
    update = trainer.step([learned])
    assert np.isfinite(update.metrics["loss"]) and update.metrics["grad_norm"] > 0
    assert max(read) <= BUDGET and len(read) == 2 * len(parts(learned, BUDGET))
    assert update.metrics["length_mean"] > LONGEST / 2


def test_the_engine_and_the_learner_agree_on_the_log_q_of_a_long_z(group, model_dir, config):
    support, query, scored = group
    trainer = lora_trainer(AutoModelForCausalLM.from_pretrained(model_dir), config, support)
    found = trainer.score([TrajectoryGroup(query.prompt_ids, scored)])
    engine = [z.sampler_log_content + z.sampler_log_stop for z in scored]
    assert found.log_q == pytest.approx(np.array(engine), abs=1e-2)
