"""A trainer restored from its state goes on as the one that it was read from, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gfn_ray.learners.training_state import read_training_state, write_training_state
from gfn_ray.storage.serialization import pack, unpack


def trained(updates: int, seed: int = 0) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
    torch.manual_seed(seed)
    parameters = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(4))]
    optimizer = torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.01)
    for step in range(updates):
        update(parameters, optimizer, step)
    return parameters, optimizer


def update(
    parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, step: int
) -> None:
    optimizer.zero_grad()
    sum(((p - step) ** 2).sum() for p in parameters).backward()
    optimizer.step()


@pytest.mark.parametrize("updates", [0, 1, 7])
def test_updates_after_a_restoration_are_those_that_would_have_followed(updates: int) -> None:
    parameters, optimizer = trained(updates)
    stored = unpack(pack(read_training_state(optimizer)))
    others, other = trained(updates=3, seed=1)
    write_training_state(other, stored)
    for step in range(5):
        update(parameters, optimizer, step)
        update(others, other, step)
    for one, two in zip(parameters, others, strict=True):
        assert torch.equal(one, two)


def test_a_state_is_a_copy() -> None:
    parameters, optimizer = trained(2)
    state = read_training_state(optimizer)
    before = state["parameters"]["0"].copy()
    update(parameters, optimizer, 2)
    assert np.array_equal(state["parameters"]["0"], before)


def test_the_state_of_other_parameters_is_refused() -> None:
    _, optimizer = trained(1)
    state = read_training_state(optimizer)
    fewer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(3, 2))], lr=0.1)
    with pytest.raises(ValueError, match="2 parameters for 1"):
        write_training_state(fewer, state)
    shape = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2)) for _ in range(2)], lr=0.1)
    with pytest.raises(ValueError, match="parameter 0 has shape"):
        write_training_state(shape, state)
