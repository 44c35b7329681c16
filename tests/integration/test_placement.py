"""Room for all actors of a run, on as few machines as there can be or on as many."""

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from gfn_ray.config import RuntimeConfig
from gfn_ray.errors import RunFailed
from gfn_ray.runtime.resources.placement import bundles, reserved
from gfn_ray.runtime.supervision.failures import ActorDied, DataLost, value_of
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
    yield made
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
    config, said = job(placement), []
    with reserved(config, "cpu", said.append) as room:
        actors = [Where.options(**room.options(i)).remote() for i in range(4)]
        nodes = ray.get([actor.node.remote() for actor in actors], timeout=60)
        assert len(set(nodes)) == machines
        (group,) = (one for name, one in placement_group_table().items() if name not in before)
        assert group["strategy"] == placement.upper()
        assert list(group["bundles"].values()) == bundles(config, "cpu")
        assert room.machines() == nodes, "each in its own bundle"
    assert not said, "nobody had to wait"


def test_what_was_reserved_is_free_again_at_the_end(cluster):
    whole = job("spread", cpus_per_actor=1.0)
    for _ in range(2):
        with reserved(whole, "cpu", print):
            pass


def test_a_run_waits_with_a_line_until_a_machine_joins(cluster):
    """What an autoscaler does once it sees what is asked for."""
    said, joined = [], []

    def say(line):
        said.append(line)
        if not joined:
            joined.append(cluster.add_node(num_cpus=4, resources={"joined": 1}))

    with reserved(job("pack", cpus_per_actor=1.9, start_timeout_s=60), "cpu", say) as room:
        assert len(set(room.machines())) == MACHINES + 1
    cluster.remove_node(joined[0])
    waiting, found = said
    assert "7.6 CPUs needed, 4 there, 4 of them free" in waiting
    assert found.startswith("found room after")


def test_a_run_that_finds_no_room_in_time_says_what_is_missing(cluster):
    with (
        pytest.raises(RunFailed, match=r"no room .* within 1 s: 40 CPUs needed, 4 there"),
        reserved(job("pack", cpus_per_actor=10, start_timeout_s=1), "cpu", print),
    ):
        pass


def test_gpus_are_reserved_where_they_are_used():
    config = job("spread").model_copy(update={"learners": 2})
    gpus = [config.sampler.gpus] * 2 + [config.reward.gpus] + [config.learner.gpus] * 2
    assert bundles(config, "cuda") == [{"CPU": 0.25, "GPU": one} for one in gpus]


def test_an_answer_that_its_node_took_along_counts_as_the_death_of_the_actor(cluster):
    node = cluster.add_node(num_cpus=1, resources={"lost": 1})

    @ray.remote(resources={"lost": 1}, num_cpus=1)
    class Answering:
        def answer(self):
            return [7] * 1_000_000

    answer = Answering.remote().answer.remote()
    assert ray.wait([answer], timeout=60.0, fetch_local=False)[0] == [answer]
    cluster.remove_node(node, allow_graceful=False)
    with pytest.raises(ActorDied, match="data from the actor is lost") as lost:
        value_of(answer, "the actor", "answer")
    assert isinstance(lost.value, DataLost)
