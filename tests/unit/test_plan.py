"""Plans: what fits, what does not and by how much, and the division that is fastest."""

import dataclasses

import pytest

from gfn_ray.cli import parse
from gfn_ray.errors import UserError
from gfn_ray.models.loading import body_layers, model_config
from gfn_ray.runtime.planning import memory, search
from gfn_ray.runtime.planning.config import PlanJob
from gfn_ray.runtime.planning.hardware import GPUS
from gfn_ray.runtime.planning.pace import FormulaDurations, Lengths
from gfn_ray.runtime.planning.plan import plan
from gfn_ray.runtime.planning.shapes import KNOWN, shape_of

LENGTHS = Lengths(prompt=100, z=20, answer=20, prefixes=3)
BILLIONS = {"135m": 0.1345, "1b": 1.71, "gptj-6b": 6.05, "8b": 8.19, "70b": 70.55}


@pytest.mark.parametrize("size", KNOWN)
def test_the_sizes_of_known_models_are_those_that_their_authors_give(size):
    assert KNOWN[size].parameters / 1e9 == pytest.approx(BILLIONS[size], rel=0.01)


def test_the_size_of_a_model_is_read_from_its_configuration(tiny_dir):
    from testing.policies import load

    shape = shape_of(model_config(str(tiny_dir), False), body_layers(str(tiny_dir), False))
    counted = sum(p.numel() for p in load(tiny_dir).parameters() if p.dim() > 1)
    assert shape.parameters == counted


def test_an_update_has_the_memory_and_time_that_were_measured():
    """docs/performance.md: of a 7B shape on one H100, at 7,600 nodes, 51 GiB and 631 ms."""
    seven = dataclasses.replace(KNOWN["8b"], parameters=7.0e9, layers=32, outside=0.3e9)
    config = PlanJob()
    learner = config.learner.model_copy(
        update={"tokens_per_forward": 7600, "queries_per_step": 20, "trajectories_per_query": 16}
    )
    config = config.model_copy(update={"learner": learner})
    assert memory.learner(seven, config).total / 2**30 == pytest.approx(51, rel=0.1)
    lengths = Lengths(prompt=60, z=20, answer=0, prefixes=1)
    seconds = FormulaDurations(config, seven, GPUS["h100"], lengths).learn()
    assert seconds == pytest.approx(0.631, rel=0.05)


def test_what_cannot_fit_is_refused_with_what_is_missing():
    with pytest.raises(UserError, match=r"4 GPUs are too few: .* need \d+ of 39.*raise plan\.gpus"):
        search.best(PlanJob(), KNOWN["70b"], GPUS["a100-40"], 4, LENGTHS)


def test_a_model_larger_than_a_gpu_is_spread_over_as_few_as_hold_it():
    found = search.best(PlanJob(), KNOWN["70b"], GPUS["h100"], 16, LENGTHS)
    assert found.config.sampler.tensor_parallel == 2
    assert found.config.learner.shard and found.config.learners >= 2
    assert found.gpus[1] == 2
    room = GPUS["h100"].memory
    assert all(need.total <= room for need in found.needs)
    assert found.used <= 16


@pytest.mark.parametrize("gpus", [3, 8, 64, 1024])
def test_more_gpus_are_never_slower_and_none_is_used_in_vain(gpus):
    config = PlanJob()
    few = search.best(config, KNOWN["8b"], GPUS["h100"], gpus, LENGTHS)
    more = search.best(config, KNOWN["8b"], GPUS["h100"], 2 * gpus, LENGTHS)
    assert few.used <= gpus
    assert min(more.rates.values()) >= min(few.rates.values()) - 1e-9


def test_the_simulated_pace_is_that_of_the_stage_that_bounds_it():
    config = PlanJob(max_staleness=100)
    division = search.best(config, KNOWN["8b"], GPUS["h100"], 8, LENGTHS)
    found = search.simulate(division, KNOWN["8b"], GPUS["h100"], LENGTHS)
    pace = min(division.rates.values())
    assert found.updates / found.seconds == pytest.approx(pace, rel=0.25)
    assert found.updates / found.seconds <= pace * 1.1


@pytest.mark.parametrize("size", [name for name in KNOWN if name != "135m"])
def test_the_settings_files_of_clusters_can_be_planned_with(size, capsys):
    flags = ["--config", f"clusters/settings/{size}.toml", "--plan.size", size]
    assert plan(parse(PlanJob, [*flags, "--plan.gpu", "b200", "--plan.gpus", "8"])) == 0
    out = capsys.readouterr().out
    assert "updates a second" in out and "settings: --samplers" in out
    assert "nobody has measured a whole run on GPUs" in out
