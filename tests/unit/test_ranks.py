"""Any number of learners that share an update is one learner, bit for bit."""

import os
import signal
from hashlib import sha256

import numpy as np
import pytest
import torch

from gfn_ray.learners.learner import SkippedUpdate
from gfn_ray.learners.ranks import ALONE, lost_a_rank, share
from gfn_ray.learners.sft import SFTTrainer
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.policy.adapter import add_adapter
from gfn_ray.storage.serialization import pack, unpack
from testing.makers import make_support
from testing.policies import groups_of, job, load
from testing.ranks import on_ranks

# Five chunks, the third of which is one query in parts: no number of ranks divides them.
SIZES = (4, 4, 20, 4, 4)


class FixedRanks:
    def __init__(self, rank, count):
        self.rank, self.count = rank, count


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_every_chunk_has_one_rank_and_they_are_in_order(count, ranks):
    shares = [share(count, FixedRanks(rank, ranks)) for rank in range(ranks)]
    assert [chunk for mine in shares for chunk in mine] == list(range(count))


def batches(support):
    """Three batches of five queries."""
    return [
        [
            groups_of(support, count=size, queries=1, seed=10 * number + index)[0]
            for index, size in enumerate(SIZES)
        ]
        for number in range(3)
    ]


def spoiled(batch):
    """The same with one log R that is NaN, in its last query."""
    *others, last = batch
    first, *rest = last.trajectories
    log_reward = np.append(first.log_reward[:-1], np.nan)
    return [*others, type(last)(last.prompt_ids, [first.scored(log_reward), *rest])]


def learned(ranks, tiny_dir, case):
    """The digest of all that later updates depend on, and every metric, after three updates, with
    one skipped and a restoration in another process's stead between them."""
    support = make_support(min_len=2)
    config = job(case, tokens_per_forward=64, lr=1e-2)
    made = [
        PolicyTrainer(add_adapter(load(tiny_dir), config.policy, seed), config, support, ranks)
        for seed in (0, 1)
    ]
    trainer, other = made
    told = []
    for number, batch in enumerate(batches(support)):
        if number == 1:
            skipped = trainer.step(spoiled(batch))
            assert isinstance(skipped, SkippedUpdate)
            told.append((skipped.reason, skipped.known["log_q"].tobytes()))
            other.restore(unpack(pack(trainer.state())))
            trainer = other
        update = trainer.step(batch)
        assert update.metrics.pop("learn_seconds") > 0
        told.append((update.metrics, update.losses.tobytes()))
    adapter = trainer.publish().tensors
    weights = sha256(b"".join(adapter[name].tobytes() for name in sorted(adapter)))
    return weights.hexdigest(), sha256(pack(trainer.state())).hexdigest(), told


@pytest.mark.parametrize(
    ("case", "counts"),
    [({}, (2, 4)), ({"kind": "ref_tb"}, (2,)), ({"kind": "tb", "root_flow": "learned"}, (4,))],
    ids=["subtb", "ref_tb", "learned log Z"],
)
def test_several_learners_end_with_the_bits_of_one(tiny_dir, case, counts):
    (alone,) = on_ranks(1, learned_alone, tiny_dir, case)
    for count in counts:
        assert on_ranks(count, learned, tiny_dir, case) == [alone] * count


def learned_alone(_, tiny_dir, case):
    return learned(ALONE, tiny_dir, case)


def imitated(ranks, tiny_dir):
    """The digest after three likelihood updates."""
    support = make_support(min_len=2)
    model = add_adapter(load(tiny_dir), job().policy, 0)
    tuner = SFTTrainer(
        model, support, lr=1e-2, max_grad_norm=1.0, tokens_per_forward=64, ranks=ranks
    )
    told = [tuner.step(batch) for batch in batches(support)]
    return sha256(pack(tuner.state())).hexdigest(), told


def imitated_alone(_, tiny_dir):
    return imitated(ALONE, tiny_dir)


def test_likelihood_updates_of_several_learners_are_those_of_one(tiny_dir):
    (alone,) = on_ranks(1, imitated_alone, tiny_dir)
    assert on_ranks(2, imitated, tiny_dir) == [alone] * 2


def left_behind(ranks, tiny_dir):
    """Rank 1 dies between two updates; what the other then meets."""
    support = make_support(min_len=2)
    config = job(tokens_per_forward=64)
    trainer = PolicyTrainer(add_adapter(load(tiny_dir), config.policy, 0), config, support, ranks)
    first, second, _ = batches(support)
    trainer.step(first)
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(RuntimeError) as met:
        trainer.step(second)
    return lost_a_rank(met.value)


def test_a_rank_whose_exchange_fails_knows_that_it_lost_another(tiny_dir):
    assert on_ranks(2, left_behind, tiny_dir) == [True, -signal.SIGKILL]


def test_an_error_of_ones_own_is_no_lost_rank():
    assert not lost_a_rank(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert lost_a_rank(torch.distributed.DistNetworkError("The client socket has timed out"))
