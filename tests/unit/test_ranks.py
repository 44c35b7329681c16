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
from gfn_ray.learners.shards import spread
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.models.layers import checkpoint_activations
from gfn_ray.policy.adapter import add_adapter
from gfn_ray.storage.serialization import pack, unpack
from testing.makers import make_support
from testing.policies import groups_of, job, load
from testing.ranks import on_ranks

# Five chunks, the third of which is one query in parts: no number of ranks divides them.
SIZES = (4, 4, 20, 4, 4)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_every_chunk_has_one_rank_and_they_are_in_order(count, ranks):
    shares = [share(count, rank, ranks) for rank in range(ranks)]
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


def policy(ranks, tiny_dir, config, support, seed):
    """A trainer as the learner actor makes it."""
    model = add_adapter(load(tiny_dir), config.policy, seed)
    if config.learner.shard:
        spread(model, "cpu")
    trainer = PolicyTrainer(model, config, support, ranks)
    if config.learner.checkpoint_activations:
        checkpoint_activations(model.get_base_model())
    return trainer


def learned(ranks, tiny_dir, case, **learner):
    """The digest of all that later updates depend on, and every metric, after three updates, with
    one skipped and a restoration in another process's stead between them."""
    support = make_support(min_len=2)
    config = job(case, tokens_per_forward=64, lr=1e-2)
    config = config.model_copy(update={"learner": config.learner.model_copy(update=learner)})
    trainer, other = (policy(ranks, tiny_dir, config, support, seed) for seed in (0, 1))
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
        told.append(trainer.score(batch).log_q.tobytes())
        if ranks.rank == 0:
            trainer.adapter()  # what one rank reads must leave the others in step
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


def shards_learned(ranks, tiny_dir, case):
    return learned(ranks, tiny_dir, case, shard=True)


def frugal_shards_learned(ranks, tiny_dir, case):
    return learned(ranks, tiny_dir, case, shard=True, checkpoint_activations=True)


def frugal_alone(_, tiny_dir, case):
    return learned(ALONE, tiny_dir, case, checkpoint_activations=True)


@pytest.mark.parametrize(
    ("case", "count", "work"),
    [
        ({}, 2, shards_learned),
        ({}, 4, frugal_shards_learned),
        ({"kind": "ref_tb"}, 2, frugal_shards_learned),
        ({}, 1, frugal_alone),
    ],
    ids=["2", "4, checkpointing", "ref_tb, checkpointing", "1, checkpointing"],
)
def test_a_base_that_is_spread_or_computed_twice_changes_no_bit(tiny_dir, case, count, work):
    (alone,) = on_ranks(1, learned_alone, tiny_dir, case)
    assert on_ranks(count, work, tiny_dir, case) == [alone] * count


def test_with_checkpoints_a_layer_is_computed_again_for_its_gradient(tiny_dir):
    counts = []
    for on in (False, True):
        config = job()
        learner = config.learner.model_copy(update={"checkpoint_activations": on})
        config = config.model_copy(update={"learner": learner})
        support = make_support(min_len=2)
        trainer = policy(ALONE, tiny_dir, config, support, 0)
        groups = groups_of(support)
        trainer.score(groups)  # how the model can be read is found out once
        computed = []
        layer = trainer.model.get_base_model().model.layers[0].mlp
        layer.register_forward_pre_hook(lambda *_, computed=computed: computed.append(1))
        trainer.step(groups)
        counts.append(len(computed))
    assert counts == [1, 2]


def held(ranks, tiny_dir):
    """Numbers of the first layer's frozen weights on this rank, and the same of all of them."""
    model = add_adapter(load(tiny_dir), job().policy, 0)
    layer = model.get_base_model().model.layers[0]
    whole = sum(p.numel() for p in layer.parameters() if not p.requires_grad)
    spread(model, "cpu")
    frozen = [p for p in layer.parameters() if not p.requires_grad]
    return sum(p.to_local().numel() for p in frozen), whole


def test_each_rank_holds_its_part_of_a_layer_that_is_spread(tiny_dir):
    (first, whole), (second, _) = on_ranks(2, held, tiny_dir)
    assert first == second == whole / 2


def imitated(ranks, tiny_dir, shard=False):
    """The digest after three likelihood updates."""
    support = make_support(min_len=2)
    model = add_adapter(load(tiny_dir), job().policy, 0)
    if shard:
        spread(model, "cpu")
    tuner = SFTTrainer(
        model, support, lr=1e-2, max_grad_norm=1.0, tokens_per_forward=64, ranks=ranks, shard=shard
    )
    told = [tuner.step(batch) for batch in batches(support)]
    return sha256(pack(tuner.state())).hexdigest(), told


def imitated_alone(_, tiny_dir):
    return imitated(ALONE, tiny_dir)


def test_likelihood_updates_of_several_learners_are_those_of_one(tiny_dir):
    (alone,) = on_ranks(1, imitated_alone, tiny_dir)
    assert on_ranks(2, imitated, tiny_dir) == [alone] * 2
    assert on_ranks(2, imitated, tiny_dir, True) == [alone] * 2


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
