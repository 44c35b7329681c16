"""A run over several nodes, of which one after another is lost.

A job of its own: what a node takes with it, its actor, its share of the object store and the room
that was reserved on it, no death of a process takes.
"""

import json

import pytest

from testing.job_runner import LIMIT, await_update, start, summary, tiny_number_flags
from testing.nodes import nodes
from testing.victim import stored_in

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

ACTORS = 3  # sampler, reward actor and learner, each with a node
LOST = {"SamplerActor": 2, "LearnerActor": 20}  # by the update after which its node is lost
STEPS = 60


@pytest.fixture(scope="module")
def run(tiny_dir, tmp_path_factory):
    """The sampler's node is lost and then the learner's, and another comes in its place."""
    home = tmp_path_factory.mktemp("nodes")
    flags = tiny_number_flags(
        tiny_dir,
        home,
        steps=STEPS,
        policy__lora_rank=32,  # so that adapters lie in the store of the learner's node
        runtime__cpus_per_actor=1,
        runtime__placement="spread",
        eval__every=0,
    )
    with nodes(ACTORS) as cluster:
        process = start(flags, home, "random_number", RAY_ADDRESS=cluster.address)
        try:
            for actor, update in LOST.items():
                await_update(process, home, update)
                cluster.kill_that_of(actor)
                cluster.add()
            code = process.wait(LIMIT)
        finally:
            process.kill()
    assert code == 0, (home / "err").read_text() + (home / "out").read_text()
    return home


def test_whatever_a_lost_node_had_comes_back_on_another(run):
    restarts = [json.loads(line) for line in (run / "run" / "restarts.jsonl").open()]
    lost = {row["actor"] for row in restarts}
    assert lost == {"sampler 0", "the learner"}
    assert summary(run)["steps"] == STEPS


def test_nothing_that_replay_acknowledged_is_lost(run):
    assert stored_in(run / "run") >= summary(run)["trajectories"] > 0
