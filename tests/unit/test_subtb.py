"""SubTB against a double loop in float64, at the optimum, and away from it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gfn_ray.objectives.subtb import subtb


def random_batch(seed: int, batch: int = 5, length: int = 4, empty_may_stop: bool = False):
    """Random inputs in float64; every row has a terminable prefix."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    terminable = torch.rand(batch, length + 1, generator=generator) < 0.5
    terminable[:, -1] = True
    terminable[:, 0] = empty_may_stop
    group = torch.randint(0, 2, (batch,), generator=generator)
    return {
        "log_pf": -normal(batch, length).abs(),
        "log_stop": -normal(batch, length + 1).abs(),
        "log_reward": 5 * normal(batch, length + 1),
        "terminable": terminable,
        "group": group,
    }


def reference(batch: dict, decay: float) -> torch.Tensor:
    """The definition, pair by pair: DESIGN's Delta_ij with the root as node 0."""
    rows, width = batch["terminable"].shape
    flows = []
    for b in range(rows):
        path, row = 0.0, {}
        for t in range(width):
            if t:
                path = path + batch["log_pf"][b, t - 1]
            if batch["terminable"][b, t]:
                log_flow = batch["log_reward"][b, t] - batch["log_stop"][b, t]
                row[t] = (log_flow, path)
        flows.append(row)

    def root_flow(b: int) -> torch.Tensor:
        if 0 in flows[b]:
            return flows[b][0][0]
        mates = [m for m in range(rows) if batch["group"][m] == batch["group"][b]]
        means = [sum(f - p for f, p in flows[m].values()) / len(flows[m]) for m in mates]
        return (sum(means) / len(means)).detach()

    total, weights = torch.zeros((), dtype=torch.float64), 0.0
    for b in range(rows):
        nodes = [(root_flow(b), torch.zeros((), dtype=torch.float64))]
        nodes += [node for t, node in flows[b].items() if t > 0]
        for i in range(len(nodes)):
            for j in range(i + 1, len(nodes)):
                delta = nodes[i][0] + (nodes[j][1] - nodes[i][1]) - nodes[j][0]
                weight = decay ** (j - i - 1)
                total = total + weight * delta**2
                weights += weight
    return total / weights


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1.0, 0.9, 1.3]), st.booleans())
def test_loss_and_gradients_equal_the_double_loop(seed, decay, empty_may_stop):
    batch = random_batch(seed, empty_may_stop=empty_may_stop)
    leaves = [batch["log_pf"].requires_grad_(), batch["log_stop"].requires_grad_()]
    ours = subtb(**batch, subtb_lambda=decay).loss
    theirs = reference(batch, decay)
    assert torch.allclose(ours, theirs, rtol=1e-10)
    for a, b in zip(
        torch.autograd.grad(ours, leaves),
        torch.autograd.grad(theirs, leaves),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("decay", [1.0, 0.7])
def test_the_loss_is_zero_exactly_at_the_posterior(decay):
    """Where u = log Z at every node, for two queries with different Z."""
    batch = random_batch(3)
    log_z = torch.tensor([1.5, -40.0], dtype=torch.float64)[batch["group"]]
    path = torch.nn.functional.pad(batch["log_pf"].cumsum(1), (1, 0))
    batch["log_reward"] = log_z[:, None] + batch["log_stop"] + path
    result = subtb(**batch, subtb_lambda=decay)
    assert result.loss < 1e-20
    assert torch.allclose(result.root_flow, log_z)
    batch["log_pf"][0, 0] -= 0.1
    assert subtb(**batch, subtb_lambda=decay).loss > 1e-5


def test_parts_of_a_batch_add_up_to_the_whole():
    batch = random_batch(5)
    parts = []
    for query in (0, 1):
        own = batch["group"] == query
        parts.append(subtb(**{name: value[own] for name, value in batch.items()}))
    whole = subtb(**batch)
    total = sum(part.loss * part.weight for part in parts)
    assert torch.allclose(total / sum(part.weight for part in parts), whole.loss)


def test_values_at_padding_do_not_matter():
    batch = random_batch(7)
    before = subtb(**batch).loss
    outside = ~batch["terminable"]
    batch["log_reward"][outside] = 1e6
    batch["log_stop"][outside] = -1e6
    assert torch.equal(subtb(**batch).loss, before)


def test_float32_keeps_small_residuals_beside_large_flows():
    """log R of -100,000 with residuals of 1: the pair sum must not cancel."""
    batch = random_batch(9)
    batch["log_reward"] -= 1e5
    exact = subtb(**batch).loss
    single = {k: v.float() if v.is_floating_point() else v for k, v in batch.items()}
    assert torch.isclose(subtb(**single).loss.double(), exact, rtol=1e-2)


def test_a_trajectory_without_a_node_is_refused():
    batch = random_batch(1)
    batch["terminable"][2] = False
    with pytest.raises(ValueError, match="floor reward"):
        subtb(**batch)
