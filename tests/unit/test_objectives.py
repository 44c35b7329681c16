"""Every objective against its definition in float64, at the optimum, and away from it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gfn_ray.config import JobConfig
from gfn_ray.objectives import choose
from testing.examples import examples
from testing.flow_oracles import each_objective, random_batch, reference_loss, solved_batch


def objective(**case):
    return choose(JobConfig(objective={"kind": "subtb", **case}).objective)


def loss_of(case, batch):
    return objective(**case).loss(batch)


def with_tensors(batch, change):
    tensors = {name: one for name, one in vars(batch).items() if isinstance(one, torch.Tensor)}
    return replace(batch, **{name: change(one) for name, one in tensors.items()})


def in_float32(batch):
    return with_tensors(batch, lambda one: one.float() if one.is_floating_point() else one)


def rows_of(batch, rows):
    """A part of a batch."""
    return with_tensors(batch, lambda value: value[rows])


def solved_for(case):
    """The exact flows; "ref_tb" adds log p_ref to log R itself, so it is taken off here."""
    batch = solved_batch()
    if case["kind"] == "ref_tb":
        return replace(batch, log_reward=batch.log_reward - batch.log_reference)
    return batch


@each_objective
@examples(40)
@given(seed=st.integers(0, 10_000))
def test_loss_and_gradients_equal_the_definition(case, seed):
    batch = random_batch(seed)
    leaves = [batch.log_pf, batch.log_stop, batch.log_z]
    for leaf in leaves:
        leaf.requires_grad_()
    ours, theirs = loss_of(case, batch).loss, reference_loss(batch, **case)
    assert torch.allclose(ours, theirs, rtol=1e-10)
    gradients = [
        torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        for loss in (ours, theirs)
    ]
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)


@each_objective
def test_the_loss_is_zero_at_the_posterior_and_nowhere_near_it(case):
    batch = solved_for(case)
    result = loss_of(case, batch)
    assert result.loss < 1e-10
    assert torch.allclose(result.log_z, batch.log_z), "and the root knows log Z"
    step = torch.zeros_like(batch.log_pf)
    step[20, 0] = 0.1  # one token of one z, 0.1 nats off
    assert loss_of(case, replace(batch, log_pf=batch.log_pf + step)).loss > 1e-6


@each_objective
def test_the_posterior_is_a_stationary_point(case):
    batch = solved_for(case)
    batch.log_pf.requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(case, batch).loss, batch.log_pf)
    assert gradient.abs().max() < 1e-10


@pytest.mark.parametrize("kind", ["subtb", "db", "tb"])
def test_a_wrong_learned_log_z_is_pulled_to_the_right_one(kind):
    batch = solved_batch()
    log_z = (batch.log_z + 2.0).requires_grad_()
    case = {"kind": kind, "root_flow": "learned"}
    (gradient,) = torch.autograd.grad(loss_of(case, replace(batch, log_z=log_z)).loss, log_z)
    assert (gradient > 0).any() and (gradient >= 0).all()


@each_objective
def test_parts_of_a_batch_add_up_to_the_whole(case):
    batch = random_batch(5)
    parts = [loss_of(case, rows_of(batch, batch.group == query)) for query in (0, 1)]
    total = sum(part.loss * part.weight for part in parts)
    whole = loss_of(case, batch)
    assert torch.allclose(total / sum(part.weight for part in parts), whole.loss)


@each_objective
def test_values_at_padding_do_not_matter(case):
    batch = random_batch(7)
    log_reward, log_stop = batch.log_reward.clone(), batch.log_stop.clone()
    log_reward[~batch.terminable], log_stop[~batch.terminable] = 1e6, -1e6
    changed = replace(batch, log_reward=log_reward, log_stop=log_stop)
    assert torch.equal(loss_of(case, changed).loss, loss_of(case, batch).loss)


@each_objective
def test_float32_keeps_small_residuals_beside_large_flows(case):
    """log R of -10,000 with residuals of a few nats: the pair sum must not cancel."""
    batch = random_batch(9)
    batch = replace(batch, log_reward=batch.log_reward - 1e4, log_z=batch.log_z - 1e4)
    exact = loss_of(case, batch).loss
    assert torch.isclose(loss_of(case, in_float32(batch)).loss.double(), exact, rtol=1e-2)


def test_float64_is_a_setting():
    single = in_float32(random_batch(2))
    assert objective().loss(single).loss.dtype == torch.float32
    assert objective(float64=True).loss(single).loss.dtype == torch.float64


def test_detailed_balance_is_the_limit_of_subtb_at_lambda_zero():
    batch = random_batch(4)
    limit = loss_of({"kind": "subtb", "subtb_lambda": 1e-12}, batch).loss
    assert torch.allclose(loss_of({"kind": "db"}, batch).loss, limit)


def test_vargrad_is_trajectory_balance_about_the_batch_mean():
    batch = random_batch(4)  # three trajectories of each query
    tb, vargrad = (loss_of({"kind": kind}, batch).loss for kind in ("tb", "vargrad"))
    assert torch.allclose(vargrad, tb * 3 / 2)


@pytest.mark.parametrize("kind", ["vargrad", "ref_tb"])
def test_a_query_with_one_trajectory_says_nothing_of_a_variance(kind):
    batch = rows_of(random_batch(4), torch.tensor([0]))
    result = loss_of({"kind": kind}, batch)
    assert result.loss == 0 and result.weight == 0


def test_an_empty_z_that_is_its_own_root_says_nothing():
    batch = rows_of(solved_batch(), torch.tensor([0]))  # row 0 is the empty z
    assert loss_of({"kind": "tb", "root_flow": "terminable"}, batch).loss == 0


@pytest.mark.parametrize(
    ("case", "missing", "message"),
    [
        ({"root_flow": "learned"}, {"log_z": None}, "log_z"),
        ({"kind": "ref_tb"}, {"log_pf_reference": None}, "needs_reference"),
        ({"kind": "rloo"}, {"log_pf_behavior": None}, "needs_behavior"),
    ],
)
def test_an_objective_says_which_input_it_lacks(case, missing, message):
    with pytest.raises(ValueError, match=message):
        loss_of(case, replace(random_batch(1), **missing))


def test_a_terminable_root_needs_an_empty_z_that_may_stop():
    with pytest.raises(ValueError, match=r"objective\.root_flow terminable"):
        loss_of({"root_flow": "terminable"}, random_batch(1, empty_may_stop=False))


def test_a_trajectory_without_a_node_is_refused():
    batch = random_batch(1)
    terminable = batch.terminable.clone()
    terminable[2] = False
    with pytest.raises(ValueError, match="floor reward"):
        replace(batch, terminable=terminable)


@pytest.mark.parametrize("kind", ["vargrad", "ref_tb"])
def test_a_root_flow_that_would_be_ignored_is_refused(kind):
    with pytest.raises(ValidationError, match="root_flow"):
        objective(kind=kind, root_flow="learned")


@pytest.mark.parametrize("kind", ["subtb", "db", "tb", "vargrad", "ref_tb"])
def test_an_objective_says_what_it_needs_beyond_every_batch(kind):
    made = objective(kind=kind)
    assert made.needs_reference == (kind == "ref_tb")
    assert not made.needs_empty_z and made.log_z_lr is None


@pytest.mark.parametrize("kind", ["subtb", "db", "tb"])
def test_a_root_says_what_it_needs(kind):
    learned = objective(kind=kind, root_flow="learned", log_z_lr=0.3)
    assert (learned.log_z_lr, learned.needs_empty_z) == (0.3, False)
    own = objective(kind=kind, root_flow="terminable")
    assert (own.log_z_lr, own.needs_empty_z) == (None, True)
