"""Actors that die, hang or lose data: their calls are made again, and their state comes back."""

import errno
import os
import resource
import signal
import sys

import pytest
import ray
import torch

from gfn_ray.config import RuntimeConfig
from gfn_ray.errors import RunFailed, UserError
from gfn_ray.replay.journal.write_ahead_log import DamagedReplay
from gfn_ray.runtime.actors.worker_group import load
from gfn_ray.runtime.resources.cluster import check_resources, connected
from gfn_ray.runtime.supervision.calls import PendingCalls
from gfn_ray.runtime.supervision.failures import DataLost
from gfn_ray.runtime.supervision.supervisor import Supervisor
from gfn_ray.runtime.supervision.worker import Worker
from gfn_ray.tasks.infill.config import InfillJob
from testing.victim import await_true

pytestmark = pytest.mark.ray


class Counter:
    """An actor with a state: the sum of what it was given."""

    def __init__(self, total=0):
        self._total = total

    def load(self):
        pass

    def process(self):
        return os.getpid()

    def add(self, amount):
        self._total += amount
        return self._total

    def state(self):
        return {"total": self._total}, None

    def restore(self, state):
        self._total = state["total"]

    def bulky(self):
        return [0] * 1_000_000, self._total

    def owned(self):
        """A reference to what is lost with this process."""
        return [ray.put([7] * 1_000_000)]

    def first(self, values):
        return values[0]

    def hang(self, once):
        """Only the first process to be asked stops, and marks that it did."""
        if not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return self._total

    def fails_once(self, once, error):
        if not once.exists():
            once.touch()
            raise error
        return self._total

    def has_no_address_space(self, once):
        """A real one: no further page, from the first process to be asked on."""
        if not once.exists():
            once.touch()
            resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))
            return bytearray(1 << 30)
        return self._total

    def has_a_bug(self):
        raise LookupError("no such thing")

    def is_misused(self):
        raise UserError("set it to 3")


class SlowToReload(Counter):
    """Its successors fail to load with each of these errors in turn, and then no more."""

    def __init__(self, directory, errors):
        super().__init__()
        self._directory, self._errors = directory, errors

    def load(self):
        loads = len(list(self._directory.iterdir()))
        (self._directory / str(loads)).touch()
        if 0 < loads <= len(self._errors):
            raise self._errors[loads - 1]


class DiesAtStart(Counter):
    """The first processes are killed as they load; the next one raises what it was given."""

    def __init__(self, directory, deaths, error=None):
        super().__init__()
        self._directory, self._deaths, self._error = directory, deaths, error

    def load(self):
        loads = len(list(self._directory.iterdir()))
        (self._directory / str(loads)).touch()
        if loads < self._deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._error is not None:
            raise self._error


class Crew:
    """One member, its supervisor, and what the supervisor said."""

    def __init__(self, kind=Counter, arguments=(), options=None, **settings):
        self.said, self.restarts = [], []
        config = RuntimeConfig(**{"start_timeout_s": 60, "call_timeout_s": 30, **settings})
        self.supervisor = Supervisor(config, self.said.append, self.restarts.append)
        options = options or {}
        self.worker = Worker(
            "the counter", lambda: ray.remote(kind).options(**options).remote(*arguments)
        )
        load(config, self.supervisor, [self.worker])
        self.config = config

    def calls(self):
        return PendingCalls(self.config, self.supervisor)

    def make(self, calls, method, *arguments, changes_state=False):
        return calls.make(
            self.worker,
            f"do its {method}",
            lambda actor: getattr(actor, method).remote(*arguments),
            changes_state=changes_state,
        )

    def ask(self, method, *arguments, changes_state=False):
        calls = self.calls()
        call = self.make(calls, method, *arguments, changes_state=changes_state)
        calls.run_all()
        return call.result()

    def kill(self):
        os.kill(self.ask("process"), signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster():
    # Workers cannot import tests.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with connected():
        yield


def test_a_call_of_a_killed_actor_is_made_again_on_its_successor(cluster):
    crew = Crew()
    before = crew.ask("process")
    crew.kill()
    assert crew.ask("process") != before
    (restart,) = crew.restarts
    assert restart.actor == "the counter" and "do its process" in restart.cause
    assert "restarting it in 1 s (1 of 20 restarts)" in crew.said[0]
    assert "is back after" in crew.said[1]


def test_a_successor_repeats_what_changed_the_state_since_it_was_saved(cluster):
    crew = Crew()
    assert crew.ask("add", 1, changes_state=True) == 1
    crew.kill()
    assert crew.ask("add", 10, changes_state=True) == 11
    crew.worker.saved(lambda actor: actor.restore.remote({"total": 100}))
    crew.kill()
    assert crew.ask("add", 1, changes_state=True) == 101
    crew.kill()
    assert crew.ask("add", 0) == 101, "what leaves the state alone is not repeated"
    assert crew.worker.repeats == 2


def test_a_call_whose_value_says_that_it_changed_nothing_is_not_repeated(cluster):
    crew = Crew()
    for amount in (1, 10):
        crew.ask("add", amount, changes_state=lambda total: total == 1)
    crew.kill()
    assert crew.ask("add", 0) == 1
    assert crew.worker.repeats == 1


def test_calls_of_one_actor_keep_their_order_over_its_death(cluster):
    crew = Crew()
    crew.kill()
    calls = crew.calls()
    added = [crew.make(calls, "add", amount, changes_state=True) for amount in (1, 10, 100)]
    calls.run_all()
    assert [call.result() for call in added] == [1, 11, 111]
    assert len(crew.restarts) == 1, "three failed calls are one death"


def test_an_actor_that_stops_answering_is_replaced_after_the_limit(cluster, tmp_path):
    crew = Crew(call_timeout_s=3)
    assert crew.ask("hang", tmp_path / "stopped") == 0
    assert "did not do its hang within 3 s" in crew.restarts[0].cause
    assert "runtime.call_timeout_s" in crew.restarts[0].cause


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("could not create a primitive"),
        RuntimeError("can't start new thread"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_actor_that_says_it_is_out_of_memory_is_replaced(cluster, tmp_path, error):
    crew = Crew()
    assert crew.ask("fails_once", tmp_path / "failed", error) == 0
    assert "ran out of memory" in crew.restarts[0].cause


def test_an_error_of_a_device_is_a_death_of_its_actor(cluster, tmp_path):
    crew = Crew()
    error = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    first = crew.ask("process")
    assert crew.ask("fails_once", tmp_path / "failed", error) == 0
    assert "lost its device, its peers or its engine" in crew.restarts[0].cause
    assert crew.ask("process") != first


def test_an_actor_without_address_space_is_replaced(cluster, tmp_path):
    crew = Crew()
    assert crew.ask("has_no_address_space", tmp_path / "failed") == 0
    assert len(crew.restarts) == 1


def test_more_actors_than_the_cluster_has_room_for_are_refused_before_any_starts(cluster):
    with pytest.raises(UserError, match=r"52 actors with models need 26 CPUs.*cpus_per_actor"):
        check_resources(InfillJob(samplers=50), "cpu", grows=False)


def test_a_call_that_ray_will_not_even_take_ends_the_run_with_a_sentence(cluster):
    few = {"max_pending_calls": 2}
    crew = Crew(options=few)
    calls = crew.calls()
    with pytest.raises(RunFailed, match="Ray could not let the counter count: The task"):
        for _ in range(100):
            calls.make(crew.worker, "count", lambda actor: actor.state.remote())
    crew = Crew(options=few)
    for _ in range(100):
        crew.worker.changed_by(lambda actor: actor.add.remote(1))
    crew.kill()
    with pytest.raises(RunFailed, match="Ray could not let the counter restore its state"):
        crew.ask("add", 100)


def test_what_keeps_a_successor_from_loading_is_given_time_to_pass(cluster, tmp_path):
    errors = [
        UserError("replay is in use by another process"),
        ValueError("No available memory for the cache blocks"),
    ]
    crew = Crew(SlowToReload, (tmp_path, errors))
    crew.kill()
    assert crew.ask("add", 1) == 1
    assert "in use by another process; restarting it in 2 s (2 of 20" in crew.said[1]
    assert "cache blocks; restarting it in 4 s (3 of 20" in crew.said[2]


def test_a_damaged_replay_store_is_not_loaded_again(cluster, tmp_path):
    crew = Crew(SlowToReload, (tmp_path, [DamagedReplay("wal is damaged at byte 7")]))
    crew.kill()
    with pytest.raises(UserError, match="damaged at byte 7"):
        crew.ask("add", 1)


def test_an_actor_that_is_killed_as_it_first_loads_is_started_again(cluster, tmp_path):
    crew = Crew(DiesAtStart, (tmp_path, 1))
    assert crew.ask("add", 1) == 1
    (restart,) = crew.restarts
    assert "died while trying to load its model" in restart.cause


def test_an_actor_that_always_dies_as_it_first_loads_ends_the_run_soon(cluster, tmp_path):
    with pytest.raises(
        RunFailed,
        match=r"it failed to load 3 times.*free on the Ray cluster: [0-9.]+ CPUs, .* of object",
    ):
        Crew(DiesAtStart, (tmp_path, 99))
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("deaths", [0, 1])
def test_what_a_first_load_raises_ends_the_run_at_once(cluster, tmp_path, deaths):
    raised = "failed to load its model: LookupError: no such layer$"  # room is not the matter
    with pytest.raises(RunFailed, match=raised):
        Crew(DiesAtStart, (tmp_path, deaths, LookupError("no such layer")))
    assert len(list(tmp_path.iterdir())) == deaths + 1


def test_a_spent_budget_ends_the_run_with_every_cause(cluster):
    crew = Crew(max_restarts=1)
    crew.kill()
    crew.ask("add", 1)
    crew.kill()
    with pytest.raises(RunFailed, match=r"1 restart allowed by runtime\.max_restarts") as failure:
        crew.ask("add", 1)
    assert str(failure.value).count("the counter died while trying to do its") == 2


def test_restarts_in_a_row_wait_longer_each_time(cluster):
    crew = Crew()
    crew.kill()
    crew.supervisor.lost(crew.worker, crew.worker.generation, "it died")

    def is_back():
        crew.supervisor.attend()
        return crew.restarts

    await_true(is_back, 60.0, "the actor did not come back")
    crew.supervisor.lost(crew.worker, crew.worker.generation, "it died")
    assert "in 1 s" in crew.said[0] and "in 2 s" in crew.said[2]


def test_a_bug_is_not_tried_again(cluster):
    crew = Crew()
    with pytest.raises(RunFailed, match="failed to do its has_a_bug: LookupError: no such thing"):
        crew.ask("has_a_bug")
    with pytest.raises(UserError, match="set it to 3"):
        crew.ask("is_misused")
    assert not crew.restarts


def test_data_that_is_lost_on_its_way_is_the_callers_to_make_again(cluster):
    crew, again = Crew(), []
    (values,) = crew.ask("owned")
    assert crew.ask("first", values) == 7
    crew.kill()
    crew.ask("process")
    calls = crew.calls()

    async def first():
        with pytest.raises(DataLost):
            await crew.make(calls, "first", values)
        again.append(await crew.make(calls, "add", 0))

    calls.start(first())
    calls.run_all()
    assert again == [0]
    with pytest.raises(RunFailed, match="is lost"):
        crew.ask("first", values)
    assert len(crew.restarts) == 1


def test_data_that_a_successor_would_need_and_that_is_lost_ends_the_run(cluster):
    owner, crew = Crew(), Crew()
    (values,) = owner.ask("owned")
    assert crew.ask("first", values, changes_state=True) == 7
    owner.kill()
    owner.ask("process")
    crew.kill()
    with pytest.raises(RunFailed, match=r"is lost.*cannot be made again in the middle of a run"):
        crew.ask("add", 1)


def test_what_an_actor_left_in_the_store_outlives_it(cluster):
    crew, found = Crew(), []
    calls = crew.calls()

    async def hand_over():
        bulky, total = await calls.make(
            crew.worker,
            "make something bulky",
            lambda actor: actor.bulky.options(num_returns=2).remote(),
        )
        found.append(total)
        os.kill(await crew.make(calls, "process"), signal.SIGKILL)
        await crew.make(calls, "process")
        found.append(len(await calls.fetch(bulky, "hand it over")))

    calls.start(hand_over())
    calls.run_all()
    assert found == [0, 1_000_000]
    assert len(crew.restarts) == 1
