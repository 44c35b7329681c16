"""Resampling by R / q: against posteriors that are listed whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import gfn_ray
from gfn_ray.config import ModelConfig, PolicyConfig, SamplerConfig
from gfn_ray.decoding.resampling import Weights
from gfn_ray.errors import UserError
from gfn_ray.serving.description import write_description
from gfn_ray.settings_values import dump_toml
from gfn_ray.storage.atomic import COMPLETE, checksums
from gfn_ray.tasks.arithmetic.config import ArithmeticJob
from gfn_ray.tasks.prompts.config import PromptsConfig, PromptsJob
from gfn_ray.tasks.random_number.config import RandomNumberConfig, RandomNumberJob
from testing.policies import write_random_adapter

log_weights = arrays(np.float64, st.integers(1, 30), elements=st.floats(-500, 500))


@given(log_weights)
def test_weights_are_shares_and_their_effective_size_lies_between_one_and_all(logs):
    weights = Weights.of(logs)
    assert weights.normalised.sum() == pytest.approx(1.0)
    assert 1 - 1e-9 <= weights.effective <= len(logs) + 1e-9
    assert Weights.of(logs + 7.0).normalised == pytest.approx(weights.normalised)


@given(st.integers(1, 30))
def test_equal_weights_are_as_good_as_all_samples(count):
    assert Weights.of(np.zeros(count)).effective == pytest.approx(count)


@given(log_weights, st.integers(1, 40), st.integers(0, 9))
def test_a_candidate_is_drawn_as_often_as_its_weight_says_and_within_one_of_it(logs, n, seed):
    weights = Weights.of(logs)
    drawn = weights.draw(n, np.random.default_rng(seed))
    counts = np.bincount(drawn, minlength=len(logs))
    assert len(drawn) == n
    assert np.abs(counts - n * weights.normalised).max() < 1 + 1e-6


def test_total_variation_to_the_posterior_falls_as_candidates_grow():
    """One is drawn from m candidates, of 20,000 lots; with m = 1 it is q itself."""
    rng = np.random.default_rng(0)
    q = np.array([0.5, 0.25, 0.15, 0.07, 0.03])
    target = np.array([0.05, 0.1, 0.15, 0.3, 0.4])
    tv = []
    for candidates in (1, 4, 16, 64):
        drawn = []
        for outcomes in rng.choice(len(q), (20_000, candidates), p=q):
            weights = Weights.of(np.log(target[outcomes] / q[outcomes]))
            drawn.append(outcomes[weights.draw(1, rng)[0]])
        tv.append(0.5 * np.abs(np.bincount(drawn, minlength=len(q)) / len(drawn) - target).sum())
    assert tv[0] == pytest.approx(0.5 * np.abs(q - target).sum(), abs=0.02)
    assert tv[0] > tv[1] > tv[2] > tv[3] and tv[3] < 0.05


# A served policy


def served(tiny_dir, directory, config, task):
    adapter = write_random_adapter(tiny_dir, directory / task, policy=PolicyConfig(lora_rank=8))
    settings = {
        "model": ModelConfig(name=str(tiny_dir)),
        "policy": PolicyConfig(lora_rank=8),
        "sampler": SamplerConfig(backend="transformers", max_batch=512, max_prompt_tokens=200),
    }
    write_description(adapter, task, dump_toml(config.model_copy(update=settings)))
    (adapter / COMPLETE).write_text(checksums(adapter))
    return adapter


@pytest.fixture(scope="module")
def numbers(tiny_dir, tmp_path_factory):
    """A policy of digits that was never trained on its target, the numbers from 0 to 4."""
    config = RandomNumberJob(task=RandomNumberConfig(low=0, high=4))
    return served(tiny_dir, tmp_path_factory.mktemp("numbers"), config, "random_number")


@pytest.fixture(scope="module")
def prompts(tiny_dir, tmp_path_factory):
    config = PromptsJob(task=PromptsConfig(max_len=4, reward=("mine.py:f",), prior=0.0))
    return served(tiny_dir, tmp_path_factory.mktemp("prompts"), config, "prompts")


def tv(texts):
    shares = np.array([sum(text.strip() == str(n) for text in texts) for n in range(5)]) / len(
        texts
    )
    return 0.5 * (np.abs(shares - 0.2).sum() + 1 - shares.sum())


def test_resampled_numbers_are_closer_to_the_listed_posterior_the_more_candidates(numbers):
    with gfn_ray.open(numbers) as policy:
        found = [policy.sample(n=400, seed=1)]
        found += [policy.sample(n=400, seed=1, resample=True, candidates=m) for m in (800, 6400)]
    plain, some, many = (tv([one.text for one in each]) for each in found)
    assert plain > some > many and many < 0.1
    assert found[1].effective_sample_size < found[2].effective_sample_size < 6400
    assert len(found[2]) == 400 and len(found[2].candidates) == 6400


def test_answers_are_weighed_in_the_same_way(numbers):
    with gfn_ray.open(numbers) as policy:
        alike, weighed = (policy.predict(n=3000, weighted=each) for each in (False, True))
    assert sum(weight for _, weight in weighed.answers) + weighed.unanswered == pytest.approx(1)
    off = [sum(abs(w - 0.2) for _, w in one.answers) for one in (alike, weighed)]
    assert off[1] < off[0] / 2
    assert alike.effective_sample_size == pytest.approx(3000)
    assert 1 < weighed.effective_sample_size < 3000


def test_a_reward_that_is_code_is_run_only_where_it_is_given(prompts):
    query = {"prompt": "She went", "wanted": "a"}
    with gfn_ray.open(prompts) as policy, pytest.raises(UserError, match="reward=function"):
        policy.sample(query, resample=True)

    def count(completions, wanted, **kwargs):
        return [float(text.count(one)) for text, one in zip(completions, wanted, strict=True)]

    with gfn_ray.open(prompts, reward=count) as policy:
        plain, drawn = (policy.sample(query, 40, resample=each) for each in (False, True))
    assert sum(z.text.count("a") for z in drawn) > sum(z.text.count("a") for z in plain)


def test_what_cannot_be_weighed_is_refused(numbers, tiny_dir, tmp_path):
    with gfn_ray.open(numbers) as policy:
        for wrong in ({"candidates": 9}, {"resample": True, "candidates": 2}):
            with pytest.raises(UserError, match="candidates"):
                policy.sample(n=3, **wrong)
    with pytest.raises(UserError, match="leave reward out"):
        gfn_ray.open(numbers, reward="exact")
    sums = served(tiny_dir, tmp_path, ArithmeticJob(), "arithmetic")
    with gfn_ray.open(sums) as policy, pytest.raises(UserError, match="needs the right answer"):
        policy.sample({"question": "1 + 1"}, n=2, resample=True)
