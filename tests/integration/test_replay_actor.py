"""A replay actor whose process is killed: the next one over its directory goes on from there."""

import os

import numpy as np
import pytest
import ray
from ray.exceptions import RayActorError

from gfn_ray.replay import ReplayBuffer
from gfn_ray.replay.columns import from_bytes
from gfn_ray.runtime.actors.replay_actor import ReplayActor
from gfn_ray.runtime.actors.replay_calls import ReplayCalls
from gfn_ray.runtime.resources.cluster import connected
from gfn_ray.tasks.infill.config import InfillJob
from testing.courses import random_trajectory
from testing.processes import actor_processes

pytestmark = pytest.mark.ray

CONFIG = InfillJob()
ADDS = 12


def drawn(trajectories):
    return [
        (one.query_id, one.token_ids.tolist(), one.log_reward.tobytes()) for one in trajectories
    ]


@pytest.fixture
def start(tmp_path):
    with connected():

        def started():
            actor = ray.remote(ReplayActor).remote(CONFIG, tmp_path / "replay")
            ray.get(actor.load.remote(), timeout=60)
            return actor

        yield started


def test_a_new_actor_over_the_directory_of_a_killed_one_draws_what_that_would_have_drawn(start):
    rng = np.random.default_rng(0)
    never_killed = ReplayBuffer(CONFIG.replay, CONFIG.seed)
    actor = start()
    for version in range(ADDS):
        group = [random_trajectory(rng, version) for _ in range(8)]
        never_killed.add(group)
        stored = ray.get(actor.add.remote([one.to_wire() for one in group]), timeout=60)
        assert (stored["offered"], stored["size"]) == (8, len(never_killed))
        assert stored["log_reward_mean"] == np.mean([one.final_log_reward for one in group])
        expected = never_killed.sample(2, 4, version)
        batch, _ = ray.get(actor.sample.remote(2, 4, version), timeout=60)
        assert drawn(from_bytes(batch)) == drawn(expected.trajectories)

    (process,) = actor_processes(os.getpid(), "ReplayActor")
    process.kill()
    with pytest.raises(RayActorError):
        ray.get(actor.sample.remote(2, 4, 0), timeout=60)

    successor = start()
    for version in range(ADDS, 2 * ADDS):
        expected = never_killed.sample(2, 4, version)
        if expected is None:  # everything has been drawn as often as allowed
            break
        batch, info = ray.get(successor.sample.remote(2, 4, version), timeout=60)
        assert drawn(from_bytes(batch)) == drawn(expected.trajectories)
        assert info["stats"] == never_killed.stats()
    assert version > ADDS


def test_a_call_made_again_on_the_successor_gets_the_answer_that_was_not_heard(start):
    rng, calls = np.random.default_rng(0), ReplayCalls()
    group = [random_trajectory(rng, 0).to_wire() for _ in range(8)]
    add, sample = calls.add(group), calls.sample(2, 4, 0)

    def added(actor):
        report = ray.get(add(actor), timeout=60)
        return {**report, "shown": [wire["token_ids"].tolist() for wire in report["shown"]]}

    def answers(actor):
        batch, info = ray.get(sample(actor), timeout=60)
        return drawn(from_bytes(batch)), info["slots"].tolist(), info["stats"]

    actor = start()
    stored, heard_by_nobody = added(actor), answers(actor)
    (process,) = actor_processes(os.getpid(), "ReplayActor")
    process.kill()
    successor = start()
    assert added(successor) == stored
    assert answers(successor) == heard_by_nobody
    counts = [heard_by_nobody[2]["sampled"]]
    for another in (calls, ReplayCalls()):  # the second as after --resume
        _, info = ray.get(another.sample(1, 2, 0)(successor), timeout=60)
        counts.append(info["stats"]["sampled"])
    assert counts[0] < counts[1] < counts[2], "another call draws another batch"
