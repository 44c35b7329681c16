"""An update whose loss or gradient is not finite is not applied: all is as it was, bit for bit."""

import numpy as np
import pytest
import torch

from gfn_ray.learners.learner import SkippedUpdate
from gfn_ray.learners.sft import SFTTrainer
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.storage.serialization import pack
from testing.flow_oracles import each_objective
from testing.makers import make_support
from testing.policies import groups_of, job, load, lora_trainer


def everything(trainer):
    """All that later updates depend on, as bytes: learning rates and random numbers too."""
    schedule = trainer._schedule.state_dict()
    rates = {"rates": schedule["_last_lr"], "epoch": schedule["last_epoch"]}
    return pack({**trainer.state(), **rates}) + torch.get_rng_state().numpy().tobytes()


def with_last_reward(groups, value):
    """The same groups, but with this log R at the end of the first query's longest z."""
    first, *others = groups
    *rest, longest = sorted(first.trajectories, key=len)
    log_reward = np.append(longest.log_reward[:-1], value)
    return [TrajectoryGroup(first.prompt_ids, [*rest, longest.scored(log_reward)]), *others]


def support_for(case, base):
    min_len = 0 if case.get("root_flow") == "terminable" else 2
    return make_support(min_len=min_len, vocab_size=base.config.vocab_size)


@each_objective
@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf, 1e30])
def test_a_log_r_that_makes_the_loss_not_finite_changes_nothing(base, case, value):
    support = support_for(case, base)
    groups = groups_of(support)
    trainer = lora_trainer(base, job(case), support)
    assert not isinstance(trainer.step(groups), SkippedUpdate)
    before = everything(trainer)
    skipped = trainer.step(with_last_reward(groups, value))
    assert isinstance(skipped, SkippedUpdate) and skipped.reason.startswith("the loss is ")
    assert everything(trainer) == before


@each_objective
def test_after_a_refused_first_update_the_next_is_what_it_would_have_been(tiny_dir, base, case):
    """A learned log Z too: it must not start at what a non-finite batch estimated."""
    support = support_for(case, base)
    groups = groups_of(support)
    clean, disturbed = (lora_trainer(load(tiny_dir), job(case), support) for _ in range(2))
    untouched = everything(disturbed)
    assert isinstance(disturbed.step(with_last_reward(groups, np.nan)), SkippedUpdate)
    assert everything(disturbed) == untouched
    for trainer in (clean, disturbed):
        trainer.step(groups)
    assert everything(disturbed) == everything(clean)


@pytest.mark.parametrize("float64", [False, True])
def test_a_nan_in_a_weight_is_refused_with_what_each_z_has_to_do_with_it(base, support, float64):
    trainer = lora_trainer(base, job({"float64": float64}), support)
    groups = groups_of(support)
    trainer.step(groups)
    weight = next(p for n, p in trainer.model.named_parameters() if "lora_B" in n)
    with torch.no_grad():
        weight[0, 0] = torch.nan
    before = everything(trainer)
    skipped = trainer.step(groups)
    assert skipped.reason == "the loss is nan"
    count = sum(len(g.trajectories) for g in groups)
    assert {name: values.shape for name, values in skipped.known.items()} == {
        "log_q": (count,),
        "loss": (count,),
    }
    assert np.isnan(skipped.known["log_q"]).all()
    assert everything(trainer) == before


def test_a_finite_loss_with_an_infinite_gradient_is_refused(base, support):
    trainer = lora_trainer(base, job({"kind": "vargrad"}), support)
    groups = groups_of(support)
    before = everything(trainer)
    skipped = trainer.step(with_last_reward(groups, 8e18))
    assert skipped.reason == "the gradient's norm is inf"
    assert np.isfinite(skipped.known["loss"]).all()
    assert everything(trainer) == before


def test_where_log_q_is_finite_and_the_loss_is_not_log_r_is_at_fault(base, support):
    trainer = lora_trainer(base, job({"kind": "vargrad"}), support)
    skipped = trainer.step(with_last_reward(groups_of(support), np.nan))
    assert np.isfinite(skipped.known["log_q"]).all()
    assert np.isnan(skipped.known["loss"]).any()


def test_a_likelihood_update_with_a_nan_weight_changes_nothing(tiny_dir, support):
    model = lora_trainer(load(tiny_dir), job(), support).model
    tuner = SFTTrainer(model, support, lr=1e-3, max_grad_norm=1.0, tokens_per_forward=4096)
    groups = groups_of(support)
    tuner.step(groups)
    weight = next(p for n, p in model.named_parameters() if "lora_B" in n)
    with torch.no_grad():
        weight[0, 0] = torch.inf
    before = pack(tuner.state())
    skipped = tuner.step(groups)
    assert isinstance(skipped, SkippedUpdate) and skipped.reason == "the loss is nan"
    assert pack(tuner.state()) == before
