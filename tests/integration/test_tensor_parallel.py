"""A sampler whose model is in two processes, in a Ray actor with a place of its own: the policy is
that of a sampler in one process, and the two have one life."""

import os

import numpy as np
import psutil
import pytest
import ray
from ray.exceptions import ActorDiedError
from transformers import AutoConfig

from gfn_ray.config import EvalConfig, ModelConfig, PolicyConfig, RuntimeConfig, SamplerConfig
from gfn_ray.runtime.actors.sampler_actor import SamplerActor
from gfn_ray.runtime.resources.cluster import connected
from gfn_ray.runtime.resources.placement import reserved
from gfn_ray.sampling.environment import thread_environment, vllm_environment
from gfn_ray.seeds import Stream, seed_of
from gfn_ray.storage.trajectories import unpack_trajectories
from gfn_ray.tasks.infill.config import InfillJob
from testing.engines import mismatch, policy_of, random_versions
from testing.makers import make_support, random_query
from testing.processes import actor_processes, command

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

LIMIT_S = 300
TOLERANCE = 1e-4  # nats
SEED = seed_of(Stream.SERVED, 0)


def parts() -> list[psutil.Process]:
    """The processes of the one sampler's model."""
    (actor,) = actor_processes(os.getpid(), "SamplerActor")
    return [one for one in actor.children() if "Worker_TP" in "".join(command(one))]


@pytest.fixture(scope="module")
def config(tiny_dir):
    return InfillJob(
        model=ModelConfig(name=str(tiny_dir)),
        policy=PolicyConfig(lora_rank=8),
        sampler=SamplerConfig(
            kv_cache_mb=32, max_batch=32, max_prompt_tokens=64, tensor_parallel=2
        ),
        eval=EvalConfig(samples=6),
        runtime=RuntimeConfig(placement="pack"),
    )


@pytest.fixture(scope="module")
def support(tiny_dir):
    return make_support(vocab_size=AutoConfig.from_pretrained(tiny_dir).vocab_size)


@pytest.fixture(scope="module")
def queries():
    rng = np.random.default_rng(0)
    return [random_query(rng, f"q{i}", prompt_length=60) for i in range(2)]


@pytest.fixture(scope="module")
def sampler(config, support, queries):
    variables = thread_environment(1) | vllm_environment("cpu")
    with connected(), reserved(config, "cpu", print) as placement:
        actor = (
            ray.remote(SamplerActor)
            .options(
                num_cpus=0.5,
                runtime_env={"env_vars": variables},
                **placement.options(0),
            )
            .remote(config, "cpu", None, support, queries, None)
        )
        ray.get(actor.load.remote(), timeout=LIMIT_S)
        yield actor


def samples_of(sampler, adapter, queries):
    names = [query.query_id for query in queries]
    call = sampler.sample.options(num_returns=2).remote(adapter, names, SEED, False, 6)
    block, _ = ray.get(call, timeout=LIMIT_S)
    return unpack_trajectories(block)


def test_every_version_is_that_of_transformers_and_peft_and_inside_the_support(
    sampler, config, support, queries, tiny_dir
):
    base, v1, v2 = random_versions(tiny_dir, config)
    assert len(parts()) == 2
    for adapter in (base, v1, v2, base):
        samples = samples_of(sampler, adapter, queries)
        policy = policy_of(tiny_dir, support, config, adapter)
        assert mismatch(samples, queries, policy) < TOLERANCE
        assert all(support.contains(t.token_ids) for t in samples)


def test_a_part_that_is_killed_is_the_death_of_the_actor(sampler, config, queries, tiny_dir):
    """Last, as there is no sampler afterwards. Not an exception out of the call, which would be
    taken for a fault of the code that no restart mends."""
    first, second = parts()
    second.kill()
    with pytest.raises(ActorDiedError):
        samples_of(sampler, random_versions(tiny_dir, config)[1], queries)
    first.wait(LIMIT_S)  # raises TimeoutExpired if it lives on
