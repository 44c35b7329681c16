"""Random numbers are measured by enumeration, not by samples: here samples are held to it.

On the tiny model, with every text that the support has listed: what the policy draws has the law
that is computed of it, and draws of the target, which need no LM here, tell the same distance.
"""

from __future__ import annotations

import itertools
from collections import Counter
from functools import partial

import numpy as np
import pytest
from transformers import AutoTokenizer

from gfn_ray.config import PolicyConfig, SamplerConfig
from gfn_ray.evaluation.calibration import SimulatedScores, calibration_metrics
from gfn_ray.evaluation.exact import ExactComparison
from gfn_ray.policy.adapter import load_adapter
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.sampling.backend import SampleRequest, start_backend
from gfn_ray.sampling.exploration import on_policy_behaviour
from gfn_ray.tasks.demonstrations import demonstration_trajectory
from gfn_ray.tasks.random_number.config import RandomNumberConfig, RandomNumberJob
from gfn_ray.tasks.random_number.task import RandomNumberTask
from testing.policies import load, lora_trainer, write_random_adapter
from testing.tiny_language import CHANCE, log_p_after, normalised, p_value

SAMPLES, QUERIES = 4, 500
JOB = RandomNumberJob(
    policy=PolicyConfig(lora_rank=8),
    task=RandomNumberConfig(low=0, high=12, target="geometric", floor=-6.0),
    sampler=SamplerConfig(backend="transformers", max_batch=500),
)


@pytest.fixture(scope="module")
def data(tiny_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    return RandomNumberTask(JOB).load(tokenizer, len(tokenizer))


@pytest.fixture(scope="module")
def language(data):
    """Every z that the policy can write, other texts than integers included."""
    support = data.support
    content = np.flatnonzero(support.content).tolist()
    lengths = range(support.min_len, support.max_len + 1)
    texts = [z for n in lengths for z in itertools.product(content, repeat=n)]
    return [z for z in texts if support.contains(z)]


@pytest.fixture(scope="module")
def adapter(tiny_dir, tmp_path_factory):
    """A policy that is not the LM itself."""
    return load_adapter(write_random_adapter(tiny_dir, tmp_path_factory.mktemp("some") / "adapter"))


def as_trajectories(data, texts):
    made = partial(demonstration_trajectory, data.train[0].query_id, support=data.support)
    return [made(np.array(z, dtype=np.int32)) for z in texts]


@pytest.fixture(scope="module")
def log_q(tiny_dir, data, language, adapter):
    """log q of each z, by the learner."""
    trainer = lora_trainer(load(tiny_dir), JOB, data.support)
    trainer.load(adapter)
    group = TrajectoryGroup(data.train[0].prompt_ids, as_trajectories(data, language))
    return dict(zip(language, trainer.score([group]).log_q, strict=True))


@pytest.fixture(scope="module")
def samples(tiny_dir, data, adapter):
    backend = start_backend(JOB, str(tiny_dir), data.support, device="cpu", tool=None)
    backend.load(adapter)
    plans = on_policy_behaviour(QUERIES * SAMPLES, np.random.default_rng(0))
    drawn = backend.sample([SampleRequest(data.train[0], plans)])
    return [tuple(z.token_ids.tolist()) for z in drawn]


def test_what_the_policy_draws_has_the_law_that_is_computed_of_it(log_q, samples):
    assert np.logaddexp.reduce(list(log_q.values())) == pytest.approx(0, abs=1e-4)
    law = {z: float(np.exp(value)) for z, value in log_q.items()}
    assert p_value(Counter(samples), law) > CHANCE


def test_a_law_that_is_masked_only_at_its_end_is_told_from_it(
    tiny_dir, data, language, adapter, samples
):
    """Probabilities under the whole vocabulary, normalised over the language: another policy."""
    trainer = lora_trainer(load(tiny_dir), JOB, data.support)
    trainer.load(adapter)
    prompt, stops = data.train[0].prompt_ids, data.support.stop_ids.tolist()
    ended = {z: [(*z, stop) for stop in stops] for z in language}
    every = [text for texts in ended.values() for text in texts]
    known = log_p_after(trainer.model, prompt, every)
    whole = {z: np.logaddexp.reduce([known[one] for one in ended[z]]) for z in language}
    assert p_value(Counter(samples), normalised(whole)) < CHANCE**2


def test_draws_of_the_target_tell_the_distance_that_is_enumerated(data, language, log_q, samples):
    """jeffreys as of every other task, on draws of the listed target."""
    query = data.train[0]
    scored = data.reward.score([(query, z) for z in as_trajectories(data, language)])
    log_r = {z: one.final_log_reward for z, one in zip(language, scored, strict=True)}
    listed = [np.array([of[z] for z in language]) for of in (log_r, log_q)]
    exact = ExactComparison.unnormalised(*listed)
    truth = exact.kl_target_q + exact.kl_q_target
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(language), QUERIES, p=np.exp(exact.log_target))
    measured = []
    for index, place in enumerate(chosen):
        texts = [language[place], *samples[index * SAMPLES : (index + 1) * SAMPLES]]
        columns = [[of[z] for z in texts] for of in (log_r, log_q)]
        r, q = (np.array(column) for column in columns)
        zeros, lengths = np.zeros(len(r)), np.array([float(len(z)) for z in texts])
        measured.append(SimulatedScores(str(index), r[0], r, zeros, q, lengths))
    found = calibration_metrics(measured, 1.0)
    assert found["jeffreys_low"] <= truth <= found["jeffreys_high"]
    assert found["jeffreys_high"] - found["jeffreys_low"] < 0.5 * truth
    assert found["kl_q_p_low"] <= exact.kl_q_target + 0.1 * truth
    assert found["kl_p_q_low"] <= exact.kl_target_q + 0.1 * truth
