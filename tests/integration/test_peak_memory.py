"""The largest memory that a process has had is told, also where it has died since."""

import pytest
import ray

from gfn_ray.runtime.profiling.peak_memory import PeakMemory
from gfn_ray.runtime.resources.cluster import connected
from gfn_ray.runtime.supervision.worker import Worker

pytestmark = pytest.mark.ray

LARGE = 300  # MiB


@ray.remote(num_cpus=0)
class Taker:
    def load(self):
        pass

    def take(self, mib):
        return len(b"1" * (mib << 20))  # and gives it back


def started(worker):
    ray.get(worker.start(), timeout=60)
    worker.up()


def test_a_peak_outlives_the_process_that_had_it():
    with connected():
        one, other = Worker("sampler 0", Taker.remote), Worker("the learner", Taker.remote)
        started(one)
        started(other)
        memory = PeakMemory([one, other])
        before = memory.so_far()
        assert set(before) == {"sampler_0", "learner", "controller"}
        assert all(mib > 10 for mib in before.values())

        ray.get(one.handle.take.remote(LARGE), timeout=60)
        grown = memory.so_far()
        assert grown["sampler_0"] > before["sampler_0"] + 0.9 * LARGE
        assert grown["learner"] < before["learner"] + 0.5 * LARGE

        memory.ask()  # of a process that may not live to answer
        one.end()
        assert memory.so_far()["sampler_0"] == grown["sampler_0"]
        started(one)
        assert memory.so_far()["sampler_0"] == grown["sampler_0"]
