"""LengthLimit for all actors of a run, on as few machines as there can be or on as many."""

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from gfn_ray.config import RuntimeConfig
from gfn_ray.errors import RunFailed
from gfn_ray.runtime.resources.placement import Placement, bundles
from gfn_ray.tasks.infill.config import InfillJob

pytestmark = pytest.mark.ray

MACHINES = 2


@pytest.fixture(scope="module")
def cluster():
    """Two CPUs each: four actors of a quarter fit on either, twice."""
    made = Cluster()
    for _ in range(MACHINES):
        made.add_node(num_cpus=2, include_dashboard=False)
    made.wait_for_nodes()
    ray.init(address=made.address, logging_level="CRITICAL", log_to_driver=False)
    yield
    ray.shutdown()
    made.shutdown()


@ray.remote(num_cpus=0.25)
class Where:
    def node(self):
        return ray.get_runtime_context().get_node_id()


def job(placement, **runtime):
    settings = {"cpus_per_actor": 0.25, "placement": placement, **runtime}
    return InfillJob(samplers=2, runtime=RuntimeConfig(**settings))


@pytest.mark.parametrize(("placement", "machines"), [("pack", 1), ("spread", MACHINES)])
def test_actors_are_on_as_few_machines_as_there_can_be_or_on_as_many(cluster, placement, machines):
    before = set(placement_group_table())
    config = job(placement)
    reserved = Placement(config, "cpu")
    actors = [Where.options(**reserved.options(i)).remote() for i in range(4)]
    nodes = ray.get([actor.node.remote() for actor in actors], timeout=60)
    assert len(set(nodes)) == machines
    (group,) = (one for name, one in placement_group_table().items() if name not in before)
    assert group["strategy"] == placement.upper()
    assert list(group["bundles"].values()) == bundles(config, "cpu")
    assert [group["bundles_to_node_id"][i] for i in range(4)] == nodes, "each in its own bundle"


def test_without_a_setting_each_actor_is_left_to_ray(cluster):
    assert Placement(job(None), "cpu").options(0) == {}


def test_a_reservation_that_finds_no_room_ends_the_run_with_a_sentence(cluster):
    with pytest.raises(RunFailed, match=r"no room for all actors within 1 s.*runtime\.placement"):
        Placement(job("pack", cpus_per_actor=1.9, start_timeout_s=1), "cpu")


def test_gpus_are_reserved_where_they_are_used():
    config = job("spread").model_copy(update={"learners": 2})
    gpus = [config.sampler.gpus] * 2 + [config.reward.gpus] + [config.learner.gpus] * 2
    assert bundles(config, "cuda") == [{"CPU": 0.25, "GPU": one} for one in gpus]
