"""An objective in a file outside the package: docs/examples/huber.py."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gfn_ray.cli import parse
from gfn_ray.config import JobConfig
from gfn_ray.objectives import choose
from testing.flow_oracles import random_batch
from testing.makers import make_support
from testing.policies import groups_of, load, lora_trainer

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


@pytest.fixture(scope="module")
def own():
    sys.path.insert(0, str(EXAMPLES))
    import huber

    yield huber
    sys.path.remove(str(EXAMPLES))


def loss_of(own, batch, delta):
    return choose(own.HuberConfig(delta=delta)).loss(batch)


def test_with_no_residual_beyond_delta_it_is_trajectory_balance(own):
    batch = random_batch(3)
    tb = choose(JobConfig(objective={"kind": "tb"}).objective).loss(batch)
    mine = loss_of(own, batch, 1e6)
    for name in ("loss", "weight", "per_trajectory", "log_z"):
        assert torch.allclose(getattr(mine, name), getattr(tb, name)), name


def test_a_residual_beyond_delta_pulls_no_harder_the_larger_it_is(own):
    batch = random_batch(3)
    found = []
    for factor in (10.0, 100.0):
        log_pf = batch.log_pf.clone().requires_grad_()
        far = replace(batch, log_pf=log_pf, log_reward=factor * batch.log_reward)
        loss_of(own, far, 1e-3).loss.backward()
        found.append(log_pf.grad)
    assert torch.allclose(*found) and found[0].any()


def test_its_settings_are_flags_and_those_of_other_kinds_are_not(own, capsys):
    assert parse(own.HuberJob, ["--objective.delta", "3"]).objective == own.HuberConfig(delta=3)
    with pytest.raises(SystemExit):
        parse(own.HuberJob, ["--objective.subtb-lambda", "0.9"])
    assert "unknown setting --objective.subtb-lambda" in capsys.readouterr().err


def test_a_policy_learns_by_it(own, tiny_dir):
    model = load(tiny_dir)
    support = make_support(vocab_size=model.config.vocab_size)
    learner = {"lr": 1e-2, "warmup_steps": 0}
    config = own.HuberJob(policy={"lora_rank": 8}, learner=learner)
    trainer = lora_trainer(model, config, support)
    losses = [trainer.step(groups_of(support)).metrics["loss"] for _ in range(8)]
    assert losses[-1] < losses[0]
