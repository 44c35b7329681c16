"""Cores divided by measured share: real actors end with the threads that were chosen, and so do
their successors, each in the place that was reserved for it."""

import pytest
import ray
from ray.util import placement_group_table
from transformers import AutoTokenizer

from gfn_ray.cli import parse
from gfn_ray.config import RandomNumberJob
from gfn_ray.runtime.bad_batches import BadBatches
from gfn_ray.runtime.balance import MEASURED_UPDATES, ThreadBalance, left_to
from gfn_ray.runtime.controller import Controller
from gfn_ray.runtime.engine_check import EngineCheck
from gfn_ray.runtime.fleet import Fleet
from gfn_ray.runtime.supervisor import Supervisor
from gfn_ray.tasks.random_number import RandomNumberTask
from job_runner import tiny_number_flags

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

CORES = 8  # that Ray is told of, whatever this machine has


@pytest.fixture
def cluster():
    ray.init(address="local", num_cpus=CORES, include_dashboard=False, logging_level="CRITICAL")
    yield
    ray.shutdown()


def in_use(fleet):
    """Threads of each actor with a model, as torch in its process counts them."""
    return {
        member.name: fleet.ask(member, "count its threads", lambda actor: actor.threads.remote())
        for member in fleet.with_models
    }


def test_actors_and_their_successors_have_the_threads_that_were_chosen(cluster, tiny_dir, tmp_path):
    settings = {"steps": MEASURED_UPDATES + 2, "runtime__placement": "pack"}
    flags = tiny_number_flags(tiny_dir, tmp_path, **settings)
    config = parse(RandomNumberJob, flags)
    task = RandomNumberTask(config)
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    data = task.load(tokenizer, len(tokenizer))
    said, restarts, compared = [], [], []
    supervisor = Supervisor(config.runtime, said.append, restarts.append)
    fleet = Fleet.start(config, data, "cpu", tmp_path / "replay", supervisor)
    (group,) = placement_group_table().values()
    assert (group["state"], group["strategy"]) == ("CREATED", "PACK")
    assert list(group["bundles"].values()) == [{"CPU": 0.5}] * len(fleet.with_models)
    at_first = {"sampler 0": CORES - 2, "reward actor 0": 1, "the learner": 1}
    assert in_use(fleet) == at_first
    with left_to(fleet, fleet.learner):
        assert in_use(fleet) == at_first | {"the learner": CORES}
    assert in_use(fleet) == at_first

    bad = BadBatches(config, tmp_path / "bad", tokenizer.decode, lambda: 0, said.append)
    check = EngineCheck(config, "cpu", compared.append, said.append)
    controller = Controller(config, data, fleet, bad, check)
    controller.publish_now()
    balance = ThreadBalance(fleet, said.append)
    controller.train(lambda _: balance.after_update())
    (line,) = said
    assert line.startswith(f"threads by share of the CPU seconds of {MEASURED_UPDATES} updates: ")
    chosen = in_use(fleet)
    assert sum(chosen.values()) == CORES
    assert all(f"{name} {number} (" in line for name, number in chosen.items())
    assert chosen == {name: fleet.threads.of(name) for name in chosen}
    assert chosen["the learner"] > 1, "the reward of a number is a table: it needs next to nothing"

    ray.kill(fleet.learner.handle)
    assert in_use(fleet) == chosen
    assert [one.actor for one in restarts] == ["the learner"]
