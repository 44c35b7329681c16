"""Two learner actors that share every update, and the layers of the base model: they end with the
bits of one, and together."""

import os

import numpy as np
import pytest
import ray
import torch

from gfn_ray.config import ModelConfig, RuntimeConfig
from gfn_ray.runtime.actors.learner_actor import LearnerActor
from gfn_ray.runtime.actors.worker_group import load
from gfn_ray.runtime.profiling.process_use import ProcessUse
from gfn_ray.runtime.resources.cluster import connected
from gfn_ray.runtime.supervision.calls import PendingCalls
from gfn_ray.runtime.supervision.supervisor import Supervisor
from gfn_ray.runtime.supervision.worker import Worker
from gfn_ray.sampling.environment import thread_environment
from gfn_ray.storage.trajectories import pack_trajectories
from gfn_ray.trajectory import Query
from testing.makers import make_support
from testing.policies import EMPTY, groups_of, job
from testing.processes import actor_processes
from testing.sockets import listening
from testing.victim import await_true

pytestmark = [pytest.mark.ray, pytest.mark.slow]

OPTIONS = {"num_cpus": 0, "runtime_env": {"env_vars": thread_environment(1)}}
UPDATES, EACH = 4, 4


@pytest.fixture(scope="module")
def given(tiny_dir):
    """What a learner is made from."""
    config = job(tokens_per_forward=64).model_copy(
        update={
            "model": ModelConfig(name=str(tiny_dir)),
            "runtime": RuntimeConfig(start_timeout_s=120, call_timeout_s=60),
        }
    )
    support = make_support(min_len=2)
    groups = groups_of(support, queries=5, count=UPDATES * EACH)
    queries = [
        Query(group.trajectories[0].query_id, group.prompt_ids, EMPTY, EMPTY) for group in groups
    ]
    blocks = [
        pack_trajectories([t for g in groups for t in g.trajectories[EACH * n : EACH * (n + 1)]])
        for n in range(UPDATES)
    ]
    return config, support, queries, blocks


@pytest.fixture(scope="module")
def alone(given):
    """The versions that one learner in this process publishes, and what it scores with the last."""
    config, support, queries, blocks = given
    assert config.learners == 1
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    learner = LearnerActor(config, "cpu", None, support, queries)
    learner.load()
    made = [learner.publish()[0], *(learner.step(block, True)[0] for block in blocks)]
    scores = learner.score(blocks[0])
    torch.set_num_threads(usual)
    return made, scores


class Pair:
    """The learner of two ranks under its supervisor, as a run has it."""

    def __init__(self, config, support, queries):
        self.restarts = []
        self._supervisor = Supervisor(config.runtime, lambda _: None, self.restarts.append)
        self._config = config.runtime
        remote = ray.remote(LearnerActor).options(**OPTIONS)
        self.worker = Worker(
            "the learner", lambda: remote.remote(config, "cpu", None, support, queries, [OPTIONS])
        )
        load(config.runtime, self._supervisor, [self.worker])

    def ask(self, remote_call, changes_state=False):
        calls = PendingCalls(self._config, self._supervisor)
        call = calls.make(self.worker, "learn", remote_call, changes_state=changes_state)
        calls.run_all()
        return call.result()

    def step(self, block):
        """The version that an update publishes."""
        adapter, _, update = self.ask(
            lambda actor: actor.step.options(num_returns=3).remote(block, True), changes_state=True
        )
        adapter = ray.get(adapter, timeout=60)
        assert adapter.version == update.version
        return adapter

    def processes(self):
        """Rank 0's process, then the other's."""
        first = self.ask(lambda actor: actor.__ray_call__.remote(lambda _: os.getpid()))
        found = {one.pid: one for one in actor_processes(os.getpid(), "LearnerActor")}
        return [found.pop(first), *found.values()]


@pytest.fixture(scope="module")
def pair(given):
    with connected():
        config, support, queries, _ = given
        shard = config.learner.model_copy(update={"shard": True})
        config = config.model_copy(update={"learners": 2, "learner": shard})
        yield Pair(config, support, queries)


def assert_same(adapter, expected):
    assert adapter.version == expected.version
    assert all(
        np.array_equal(adapter.tensors[name], expected.tensors[name]) for name in expected.tensors
    )


def test_a_dead_rank_ends_the_other_and_their_successors_go_on_with_the_same_bits(
    pair, given, alone
):
    *_, blocks = given
    alone, _ = alone
    version = ray.get(pair.ask(lambda a: a.publish.options(num_returns=2).remote(), True)[0])
    assert_same(version, alone[0])
    assert_same(pair.step(blocks[0]), alone[1])
    ranks = pair.processes()
    assert len(ranks) == 2
    assert all(address.is_loopback for own in listening(ranks).values() for address in own)

    ranks[1].kill()
    assert_same(pair.step(blocks[1]), alone[2])
    (restart,) = pair.restarts
    assert restart.cause.startswith("the learner died while trying to learn")
    assert not any(one.is_running() for one in ranks)

    ranks = pair.processes()
    ranks[0].kill()
    assert_same(pair.step(blocks[2]), alone[3])
    await_true(lambda: not ranks[1].is_running(), 30.0, "rank 1 outlived rank 0")
    assert len(pair.restarts) == 2 and len(pair.processes()) == 2


def test_a_state_reaches_every_rank(pair, given, alone):
    """Restored to before the last update, they make it again."""
    *_, blocks = given
    alone, scores = alone
    state = pair.ask(lambda actor: actor.state.remote())
    assert_same(pair.step(blocks[3]), alone[4])
    pair.ask(lambda actor: actor.restore.remote(state), True)
    assert_same(pair.step(blocks[3]), alone[4])
    found = pair.ask(lambda actor: actor.score.remote(blocks[0]))
    assert all(np.array_equal(found[name], scores[name]) for name in scores)


def test_the_peak_memory_of_a_learner_is_that_of_all_its_ranks(pair):
    resident = sum(one.memory_info().rss for one in pair.processes()) / 2**20
    assert ProcessUse([pair.worker]).so_far()["learner"].peak_mib >= resident
