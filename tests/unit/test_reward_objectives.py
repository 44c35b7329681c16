"""Losses on rewards against their definitions, their clipping, advantages and ties."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gfn_ray.config import JobConfig
from gfn_ray.objectives import choose
from gfn_ray.objectives.whole import leave_one_out, standardised
from gfn_ray.policy.log_q import TrajectoryGroup
from testing.examples import examples
from testing.flow_oracles import random_batch
from testing.policies import groups_of, job, load, lora_trainer, naive_batch
from testing.reward_oracles import each_reward_objective, reward_loss

VALUES = st.lists(st.floats(-50, 50), min_size=2, max_size=9)


def loss_of(case, batch):
    return choose(JobConfig(objective=case).objective).loss(batch)


@pytest.fixture
def base(tiny_dir):
    return load(tiny_dir)


def rows_of(batch, rows):
    tensors = {name: one for name, one in vars(batch).items() if isinstance(one, torch.Tensor)}
    return replace(batch, **{name: one[rows] for name, one in tensors.items()})


def one_of_two(log_ratio, log_reward=(2.0, 0.0)):
    """Two z of one token, with the same p_ref; the first is sampled with another probability than
    it has now, by log_ratio."""
    log_pf = torch.tensor([[-1.0], [-2.0]], dtype=torch.float64)
    zeros = torch.zeros(2, 2, dtype=torch.float64)
    ends = torch.tensor([[False, True]] * 2)
    reward = torch.tensor(log_reward, dtype=torch.float64)[:, None]
    batch = random_batch(0, batch=2, length=1)
    return replace(
        batch,
        log_pf=log_pf,
        log_stop=zeros,
        log_reward=torch.cat([reward, reward], dim=1),
        terminable=ends,
        group=torch.zeros(2, dtype=torch.long),
        by_policy=torch.tensor([[True], [True]]),
        log_pf_reference=torch.full((2, 1), -1.5, dtype=torch.float64),
        log_stop_reference=zeros,
        log_pf_behavior=log_pf - torch.tensor([[log_ratio], [0.0]], dtype=torch.float64),
        log_stop_behavior=torch.zeros(2, dtype=torch.float64),
    )


@each_reward_objective
@examples(40)
@given(seed=st.integers(0, 10_000), temperature=st.sampled_from([1.0, 0.25]))
def test_loss_and_gradients_equal_the_definition(case, seed, temperature):
    batch = replace(random_batch(seed), temperature=temperature)
    leaves = [batch.log_pf.requires_grad_(), batch.log_stop.requires_grad_()]
    ours = loss_of(case, batch)
    if not ours.weight:
        return  # no z was accepted
    theirs = reward_loss(batch, **case)
    assert torch.allclose(ours.loss, theirs, rtol=1e-9)
    gradients = [
        torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        for loss in (ours.loss, theirs)
    ]
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)


@each_reward_objective
def test_parts_of_a_batch_add_up_to_the_whole(case):
    batch = random_batch(5)
    parts = [loss_of(case, rows_of(batch, batch.group == query)) for query in (0, 1)]
    whole = loss_of(case, batch)
    total = sum(part.loss * part.weight for part in parts)
    assert torch.allclose(total / sum(part.weight for part in parts), whole.loss)
    for name, row in whole.metrics.items():
        own = torch.cat([part.metrics[name] for part in parts])
        assert torch.allclose(own.nansum(), row.nansum()), name


@each_reward_objective
def test_values_where_z_does_not_end_do_not_matter(case):
    batch = random_batch(7)
    changed = {
        name: torch.where(batch.ends, getattr(batch, name), torch.nan)
        for name in ("log_reward", "log_stop", "log_stop_reference")
    }
    assert torch.equal(loss_of(case, replace(batch, **changed)).loss, loss_of(case, batch).loss)


@each_reward_objective
def test_an_objective_names_the_metrics_that_its_losses_have(case):
    made = choose(JobConfig(objective=case).objective)
    found = made.loss(random_batch(3)).metrics
    assert set(made.metrics) <= set(found)
    assert all(row.shape == (6,) and not row.requires_grad for row in found.values())


@pytest.mark.parametrize("kind", ["ppo", "rloo", "grpo"])
@pytest.mark.parametrize(
    ("log_ratio", "better", "learns"),
    [
        (0.1, True, True),
        (0.1, False, True),
        (0.5, True, False),  # already likelier than when sampled, and good: enough
        (0.5, False, True),  # likelier, and bad: back
        (-0.5, True, True),
        (-0.5, False, False),
    ],
)
def test_outside_the_clip_nothing_is_learned_in_the_direction_it_went(
    kind, log_ratio, better, learns
):
    batch = one_of_two(log_ratio, (9.0, 0.0) if better else (-9.0, 0.0))
    batch = replace(batch, temperature=1e-9 if kind == "grpo" else 1.0)  # no KL in GRPO's loss
    batch.log_pf.requires_grad_()
    found = loss_of({"kind": kind, "reward": "task"}, batch)
    (gradient,) = torch.autograd.grad(found.loss, batch.log_pf)
    assert (gradient[0].abs() > 1e-6) == learns
    clipped = float(found.metrics["clip_fraction"][0])
    assert clipped == (0.0 if learns else 0.5 if kind != "rloo" else 1.0)


@given(VALUES)
def test_leave_one_out_advantages_have_mean_0_and_ignore_a_shift_of_all_rewards(values):
    r = torch.tensor(values, dtype=torch.float64)
    group = torch.zeros(len(r), dtype=torch.long)
    advantages = leave_one_out(r, group)
    assert abs(advantages.mean()) < 1e-9
    others = (r.sum() - r[0]) / (len(r) - 1)
    assert torch.isclose(advantages[0], r[0] - others, atol=1e-9)
    assert torch.allclose(leave_one_out(r + 7, group), advantages, atol=1e-9)


@given(VALUES)
def test_standardised_advantages_have_the_same_scale_whatever_the_rewards_are(values):
    r = torch.tensor(values, dtype=torch.float64)
    group = torch.zeros(len(r), dtype=torch.long)
    advantages = standardised(r, group)
    assert abs(advantages.mean()) < 1e-9
    if r.std() > 1:
        assert math.isclose(advantages.std(), 1, abs_tol=1e-3)
        assert torch.allclose(standardised(100 * r, group), advantages, atol=1e-3)


def test_advantages_compare_only_the_trajectories_of_a_query():
    r, group = torch.tensor([1.0, 3.0, 10.0, 20.0]), torch.tensor([0, 0, 1, 1])
    assert leave_one_out(r, group).tolist() == [-2, 2, -10, 10]
    assert leave_one_out(r[:1], group[:1]).tolist() == [0]


@pytest.mark.parametrize("pairs", ["best_worst", "bradley_terry"])
def test_equal_rewards_at_equal_log_ratios_teach_dpo_nothing(pairs):
    batch = replace(one_of_two(0.0, (3.0, 3.0)), log_pf=torch.full((2, 1), -1.0).double())
    batch.log_pf.requires_grad_()
    found = loss_of({"kind": "dpo", "reward": "task", "pairs": pairs}, batch)
    (gradient,) = torch.autograd.grad(found.loss, batch.log_pf)
    assert not gradient.any()


def test_a_tie_is_no_pair_of_the_best_and_the_worst():
    found = loss_of(
        {"kind": "dpo", "reward": "task", "pairs": "best_worst"}, one_of_two(0.0, (3.0, 3.0))
    )
    assert found.loss == 0 and found.weight == 0
    assert all(row.isnan().all() for row in found.metrics.values())
    assert not found.per_trajectory.isnan().any()


def test_a_threshold_takes_a_log_reward_that_equals_it_at_any_temperature():
    batch = one_of_two(0.0, (-0.3, -0.31))
    tempered = replace(batch, log_reward=(batch.log_reward / 0.7).float(), temperature=0.7)
    found = loss_of({"kind": "mle", "accept_from": -0.3}, tempered)
    assert found.metrics["accepted_fraction"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("case", "needs"),
    [
        ({"kind": "ppo"}, (False, True)),  # p_ref cancels
        ({"kind": "ppo", "reward": "task"}, (True, True)),
        ({"kind": "rloo"}, (False, True)),
        ({"kind": "grpo"}, (True, True)),
        ({"kind": "dpo"}, (True, False)),
        ({"kind": "mle"}, (False, False)),
    ],
)
def test_an_objective_says_what_it_needs_beyond_every_batch(case, needs):
    made = choose(JobConfig(objective=case).objective)
    assert (made.needs_reference, made.needs_behavior) == needs


def test_a_reference_that_would_be_ignored_is_refused():
    with pytest.raises(ValidationError, match=r"objective\.reference .start."):
        JobConfig(objective={"kind": "ppo", "reference": "start"})


# Through the learner


def sampled_groups(support, queries=2):
    """Groups whose trajectories carry some log q of the sampler."""
    rng = np.random.default_rng(4)
    return [
        TrajectoryGroup(
            group.prompt_ids,
            [
                replace(
                    t,
                    sampler_log_pf=-rng.exponential(5, len(t)).astype(np.float32),
                    sampler_log_stop=-float(rng.exponential(1)),
                )
                for t in group.trajectories
            ],
        )
        for group in groups_of(support, queries=queries)
    ]


@each_reward_objective
def test_the_loss_of_an_update_is_its_definition_on_naive_forwards(base, tiny_dir, support, case):
    groups = sampled_groups(support)
    batch = naive_batch(load(tiny_dir), support, groups, temperature=2.0)
    flat = [t for group in groups for t in group.trajectories]
    log_pf = torch.zeros_like(batch.log_pf)
    for row, t in enumerate(flat):
        log_pf[row, : len(t)] = torch.from_numpy(t.sampler_log_pf)
    stops = torch.tensor([t.sampler_log_stop for t in flat], dtype=torch.float64)
    batch = replace(batch, log_pf_behavior=log_pf, log_stop_behavior=stops)
    case = {**case, "accept_from": -30.0} if "accept_from" in case else case
    trainer = lora_trainer(base, job(case, temperature=2.0), support)
    metrics = trainer.step(groups).metrics
    assert metrics["loss"] == pytest.approx(float(reward_loss(batch, **case)), rel=1e-3, abs=1e-4)
    assert set(choose(job(case).objective).metrics) <= set(metrics)


@pytest.mark.parametrize("kind", ["rloo", "grpo", "dpo", "mle"])
def test_an_update_in_chunks_equals_the_update_at_once(tiny_dir, support, kind):
    found = []
    for budget in (4096, 64):
        config = job({"kind": kind}, lr=1e-3, tokens_per_forward=budget)
        trainer = lora_trainer(load(tiny_dir), config, support)
        groups = sampled_groups(support, queries=3)
        found.append([trainer.step(groups).metrics[name] for name in ("loss", "grad_norm")])
    assert found[0] == pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize("reference", ["base", "start"])
def test_the_reference_is_the_base_model_or_the_policy_before_the_first_update(
    base, support, reference
):
    """A policy that was tuned before, as by SFT, and is then trained by the objective."""
    groups = groups_of(support)
    trainer = lora_trainer(base, job({"kind": "ref_tb", "reference": reference}), support)
    untrained = trainer.score(groups).log_q
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    start = trainer.score(groups).log_q
    for _ in range(3):
        trainer.step(groups)
    scores = trainer.score(groups)
    expected = start if reference == "start" else untrained
    assert np.allclose(scores.log_reference, expected, atol=1e-4)
    assert np.abs(scores.log_q - start).max() > 0.1, "the policy itself has moved"


def test_the_reference_of_the_start_survives_a_checkpoint(tiny_dir, support):
    groups = groups_of(support)
    config = job({"kind": "dpo", "reference": "start"}, lr=1e-3)
    one, other = (lora_trainer(load(tiny_dir), config, support) for _ in range(2))
    other.restore(one.state())  # none is known before the first update
    one.step(groups)
    other.restore(one.state())
    assert one.step(groups).metrics["margin"] == other.step(groups).metrics["margin"] != 0
