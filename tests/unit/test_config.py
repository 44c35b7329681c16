"""Settings: defaults that agree with each other, contradictions that are named."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import default_rng
from pydantic import ValidationError

from gfn_ray.config import (
    CompareJob,
    PolicyConfig,
    RewardConfig,
    SamplerConfig,
    TuneBaseJob,
)
from gfn_ray.sampling.exploration import exploration_behaviours, on_policy_behaviour
from gfn_ray.settings import settings_of
from gfn_ray.tasks.arithmetic.config import ArithmeticJob
from gfn_ray.tasks.continuation.config import ContinuationJob
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tasks.random_number.config import RandomNumberJob
from gfn_ray.tasks.subjectivity.config import SubjectivityJob

JOBS = [
    ArithmeticJob,
    CompareJob,
    ContinuationJob,
    InfillJob,
    RandomNumberJob,
    SubjectivityJob,
    TuneBaseJob,
]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": {"temperature_low": 1.5}}, r"temperature_low \(1\.5\) exceeds"),
        ({"sampler": {"tempered_fraction": 0.9, "epsilon_fraction": 0.2}}, "more than 1"),
        ({"task": {"min_len": 30}}, r"min_len \(30\) exceeds task\.max_len \(20\)"),
        ({"task": {"template": "{beginning}"}}, "lacks {ending}"),
        ({"data": {"path": "a.csv", "hub": "b/c"}}, "two sources"),
        ({"replay": {"per_query": 4}}, r"replay\.per_query \(4\) is below"),
        ({"replay": {"capacity": 8}}, r"replay\.capacity \(8\) is below"),
        ({"replay": {"min_replay": 2}}, r"replay\.min_replay \(2\) is below"),
        ({"replay": {"samples_per_insert": 9}}, r"samples_per_insert \(9\.0\) exceeds"),
        ({"learners": 3}, r"learners \(3\) is not a power of two.*use 1, 2, 4, 8"),
        ({"learner": {"shard": True}}, r"learners is 1; raise learners to 2, 4"),
        (
            {
                "learners": 2,
                "learner": {"shard": True},
                "objective": {"kind": "tb", "root_flow": "learned"},
            },
            r"learner\.shard does not go with objective\.root_flow learned.*use batch_mean",
        ),
        ({"learner": {"lrr": 1}}, "lrr"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_with_both_values(settings, message):
    with pytest.raises(ValidationError, match=message):
        InfillJob.model_validate(settings)


def test_the_reward_temperature_goes_linearly_from_start_to_end_and_stays():
    reward = RewardConfig(temperature_start=2.0, temperature_end=1.0, temperature_steps=4)
    found = [reward.temperature(step, updates=100) for step in range(6)]
    assert found == [2.0, 1.75, 1.5, 1.25, 1.0, 1.0]
    at_once = RewardConfig(temperature_steps=0, temperature_end=0.5)
    assert at_once.temperature(0, updates=100) == 0.5


@pytest.mark.parametrize("updates", [1, 2, 3, 40, 41, 100])
def test_a_run_of_any_length_has_trained_at_the_temperature_it_is_judged_at(updates):
    reward = RewardConfig()
    found = [reward.temperature(step, updates) for step in range(updates)]
    assert found[-1] == reward.temperature_end
    assert found[0] == (reward.temperature_start if updates > 1 else reward.temperature_end)
    assert found == sorted(found, reverse=True)


def test_a_base_adapter_is_the_directory_itself_whatever_becomes_of_the_link(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latest").symlink_to("first")
    config = InfillJob(task={"base_adapter": "latest/adapter"})
    assert config.base_adapter == tmp_path.resolve() / "first" / "adapter"


@pytest.mark.parametrize("job", JOBS)
def test_every_setting_is_documented(job):
    settings = settings_of(job)
    assert [name for name, one in settings.items() if not one.schema.get("description")] == []


def test_a_group_is_proposed_in_the_configured_shares():
    config = SamplerConfig(
        trajectories_per_query=8, tempered_fraction=0.5, epsilon_fraction=0.25, epsilon=0.1
    )
    (plans,) = exploration_behaviours(config, 1, default_rng(0))
    kinds = [plan.proposal for plan in plans]
    assert [kinds.count(k) for k in ("policy", "tempered", "epsilon")] == [2, 4, 2]
    for plan in plans:
        tempered = plan.proposal == "tempered"
        assert (0.7 <= plan.temperature <= 1.3) if tempered else plan.temperature == 1.0
        assert plan.epsilon == (0.1 if plan.proposal == "epsilon" else 0.0)


FRACTIONS = st.floats(0, 1)


@given(st.integers(2, 40), st.integers(1, 20), FRACTIONS, FRACTIONS, st.integers(0, 2**32))
def test_shares_that_do_not_come_out_even_hold_over_the_groups_of_a_call(
    count, groups, first, second, seed
):
    tempered, noisy = first, second * (1 - first)
    config = SamplerConfig(
        trajectories_per_query=count, tempered_fraction=tempered, epsilon_fraction=noisy
    )
    plans = exploration_behaviours(config, groups, default_rng(seed))
    assert [len(group) for group in plans] == [count] * groups
    kinds = [[plan.proposal for plan in group] for group in plans]
    for kind, share, slack in (("tempered", tempered, 1), ("epsilon", noisy, 2)):
        each = [group.count(kind) for group in kinds]
        assert all(abs(n - share * count) < slack + 1e-9 for n in each)
        assert abs(sum(each) - share * count * groups) < slack + 1e-9


@pytest.mark.parametrize(("count", "tempered", "noisy"), [(2, 0.75, 0.25), (4, 1.5, 0.5)])
@pytest.mark.parametrize("groups", [1, 8])
def test_small_groups_get_epsilon_proposals_by_the_default_fractions(
    count, tempered, noisy, groups
):
    config = SamplerConfig(trajectories_per_query=count)
    each = []
    for call in range(400 // groups):
        plans = exploration_behaviours(config, groups, default_rng(call))
        each += [[plan.proposal for plan in group] for group in plans]
    for kind, share in (("tempered", tempered), ("epsilon", noisy)):
        mean = sum(group.count(kind) for group in each) / len(each)
        # 400 draws of a number that is one of two: 4 standard errors are at most .1.
        assert mean == share if groups == 8 else abs(mean - share) < 0.1


def test_the_same_entropy_gives_the_same_plans():
    assert on_policy_behaviour(4, default_rng([7, 1])) == on_policy_behaviour(
        4, default_rng([7, 1])
    )


def test_the_adapter_ranks_are_those_that_vllm_accepts():
    from vllm.config.lora import MaxLoRARanks

    ours = PolicyConfig.model_fields["lora_rank"].annotation
    assert get_args(ours) == get_args(MaxLoRARanks)
