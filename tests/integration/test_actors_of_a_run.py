"""The real actors of a run, started in this process: the threads that they get, with their
successors, each in the place that was reserved for it; and checkpoints of them."""

import io
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import ray
from ray.util import placement_group_table
from transformers import AutoTokenizer

from gfn_ray.cli import parse
from gfn_ray.errors import RunFailed
from gfn_ray.runs.display import make_display
from gfn_ray.runs.nonfinite_batches import NonFiniteBatches
from gfn_ray.runs.published import newest_complete
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.runtime.actors.worker_group import Deployment, WorkerGroup
from gfn_ray.runtime.resources.balance import MEASURED_UPDATES, ThreadBalance, left_to
from gfn_ray.runtime.resources.placement import reserved
from gfn_ray.runtime.supervision.supervisor import Supervisor
from gfn_ray.runtime.training.checkpointer import Checkpointer
from gfn_ray.runtime.training.controller import Controller
from gfn_ray.runtime.training.engine_check import EngineCheck
from gfn_ray.runtime.training.schedules.schedule import Plain
from gfn_ray.settings_values import dump_toml
from gfn_ray.tasks.random_number.config import RandomNumberJob
from gfn_ray.tasks.random_number.task import RandomNumberTask
from testing.job_runner import tiny_number_flags

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

CORES = 8  # that Ray is told of, whatever this machine has


@pytest.fixture(scope="module")
def run(tiny_dir, tmp_path_factory):
    """Started actors, before the first update, and what was said of them."""
    home = tmp_path_factory.mktemp("run")
    settings = {"steps": MEASURED_UPDATES + 2}
    config = parse(RandomNumberJob, tiny_number_flags(tiny_dir, home, **settings))
    task = RandomNumberTask(config)
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    data = task.load(tokenizer, len(tokenizer))
    directory = RunDir.create(config, task.name)
    directory.write_config(dump_toml(config))
    said, restarts, room = [], [], ExitStack()
    supervisor = Supervisor(config.runtime, said.append, restarts.append)
    ray.init(address="local", num_cpus=CORES, include_dashboard=False, logging_level="CRITICAL")
    placement = room.enter_context(reserved(config, "cpu", said.append))
    deployment = Deployment("cpu", placement, base=None)
    workers = WorkerGroup.start(config, data, deployment, directory.replay_dir, supervisor)
    bad = NonFiniteBatches(
        config, directory.nonfinite_batches_dir, tokenizer.decode, lambda: 0, said.append
    )
    check = EngineCheck(config, "cpu", lambda _: None, said.append)
    controller = Controller(config, data, workers, bad, check)
    controller.publish_now()
    yield SimpleNamespace(
        config=config,
        directory=directory,
        workers=workers,
        controller=controller,
        said=said,
        restarts=restarts,
    )
    room.close()
    ray.shutdown()


def in_use(workers):
    """Threads of each actor with a model, as torch in its process counts them."""
    return {
        worker.name: workers.ask(worker, "count its threads", lambda actor: actor.threads.remote())
        for worker in workers.with_models
    }


def test_a_checkpoint_that_has_no_place_is_left_out_unless_it_is_needed(run):
    """After an M-step replay takes rewards that go with no older checkpoint."""
    shown = io.StringIO()
    display = make_display(1, 1, shown)
    made = Checkpointer(run.config, "random_number", run.directory, run.workers, Plain(), display)
    place = run.directory.checkpoint_dir(run.controller.step)
    blocked = place.with_name(f".{place.name}.tmp")  # where it would be filled
    blocked.touch()
    made.write(run.controller, {})
    assert "could not be written" in shown.getvalue() and "continues without it" in shown.getvalue()
    with pytest.raises(RunFailed, match="does not match an older one; free disk space or repair"):
        made.write(run.controller, {}, needed=True)
    blocked.unlink()
    made.write(run.controller, {}, needed=True)
    assert newest_complete(run.directory.checkpoints_dir) == place


def test_actors_and_their_successors_have_the_threads_that_were_chosen(run):
    workers, said = run.workers, run.said
    (group,) = placement_group_table().values()
    assert (group["state"], group["strategy"]) == ("CREATED", "PACK")
    assert list(group["bundles"].values()) == [{"CPU": 0.5}] * len(workers.with_models)
    at_first = {"sampler 0": CORES - 2, "reward actor 0": 1, "the learner": 1}
    assert in_use(workers) == at_first
    with left_to(workers, workers.learner):
        assert in_use(workers) == at_first | {"the learner": CORES}
    assert in_use(workers) == at_first

    balance = ThreadBalance(workers, said.append)
    run.controller.train(lambda _: balance.after_update())
    (line,) = said
    assert line.startswith(f"threads by share of the CPU seconds of {MEASURED_UPDATES} updates: ")
    chosen = in_use(workers)
    assert sum(chosen.values()) == CORES
    assert all(f"{name} {number} (" in line for name, number in chosen.items())
    assert chosen == {name: workers.threads.of(name) for name in chosen}
    assert chosen["the learner"] > 1, "the reward of a number is a table: it needs next to nothing"

    ray.kill(workers.learner.handle)
    assert in_use(workers) == chosen
    assert [one.actor for one in run.restarts] == ["the learner"]
