"""What a process has used is told, also where it has died since."""

import pytest
import ray

from gfn_ray.runtime.profiling.process_use import ProcessUse
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
        use = ProcessUse([one, other])
        before = use.so_far()
        assert set(before) == {"sampler_0", "learner", "controller"}
        assert all(each.peak_mib > 10 and each.cpu_seconds > 0 for each in before.values())

        ray.get(one.handle.take.remote(LARGE), timeout=60)
        grown = use.so_far()
        assert grown["sampler_0"].peak_mib > before["sampler_0"].peak_mib + 0.9 * LARGE
        assert grown["learner"].peak_mib < before["learner"].peak_mib + 0.5 * LARGE
        assert grown["sampler_0"].cpu_seconds > before["sampler_0"].cpu_seconds

        use.ask()  # of a process that may not live to answer
        one.end()
        kept = use.so_far()["sampler_0"]
        assert kept.peak_mib == grown["sampler_0"].peak_mib
        started(one)
        again = use.so_far()["sampler_0"]
        assert again.peak_mib == kept.peak_mib and again.cpu_seconds >= kept.cpu_seconds
