"""A forest in blocks is that forest; on a GPU, to attend by them is to attend by the dense mask."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask

from gfn_ray.config import PolicyConfig
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.packing.blocks import SIZE, block_mask
from gfn_ray.packing.forward import (
    FEWEST_IN_BLOCKS,
    attends_in_blocks,
    read_by,
    tree_log_probs,
    ways_of,
)
from gfn_ray.packing.prefix_tree import PrefixTree
from gfn_ray.policy.adapter import add_adapter
from gfn_ray.policy.log_q import log_q
from gfn_ray.rewards.likelihood import LikelihoodReward
from gfn_ray.tasks.infill.config import InfillJob
from testing.makers import make_support, random_query, random_trajectories
from testing.policies import groups_of, job, load

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def random_forest(rng, trees, branches, length):
    """Branches share beginnings with earlier ones of their tree, whichever came between."""
    tree = PrefixTree()
    for _ in range(trees):
        root = tree.add_prompt(rng.integers(0, 3, rng.integers(1, length)))
        for _ in range(branches):
            tree.add_path(rng.integers(0, 3, rng.integers(1, length)), root)
    return tree


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 12), st.integers(2, 90))
def test_the_mask_in_blocks_is_the_mask_and_its_blocks_leave_nothing_out(
    seed, trees, branches, length
):
    tree = random_forest(np.random.default_rng(seed), trees, branches, length)
    seen = torch.from_numpy(tree.spans().seen())
    blocks = block_mask(tree.spans(), torch.device("cpu"))
    size = len(tree)
    assert torch.equal(create_mask(blocks.mask_mod, 1, 1, size, size, device="cpu")[0, 0], seen)
    several = -(-size // SIZE)
    for row in range(several):
        listed = {}
        for name in ("kv", "full_kv"):
            count = int(getattr(blocks, f"{name}_num_blocks")[0, 0, row])
            listed[name] = set(getattr(blocks, f"{name}_indices")[0, 0, row, :count].tolist())
        assert not listed["kv"] & listed["full_kv"]
        for column in range(several):
            pairs = seen[row * SIZE : (row + 1) * SIZE, column * SIZE : (column + 1) * SIZE]
            if column in listed["full_kv"]:
                assert pairs.all()
            elif column not in listed["kv"]:
                assert not pairs.any()


def test_trees_are_not_attended_to_from_one_another():
    tree = PrefixTree()
    rng = np.random.default_rng(0)
    for _ in range(8):
        tree.add_prompt(rng.integers(0, 1000, SIZE))
    blocks = block_mask(tree.spans(), torch.device("cpu"))
    assert blocks.kv_num_blocks.tolist() == [[[1] * 8]]  # one of eight, the diagonal


@pytest.mark.gpu
@on_gpu
def test_in_blocks_and_dense_have_the_same_values_and_gradients(tiny_dir):
    tree = random_forest(np.random.default_rng(0), 30, 12, 40)
    assert len(tree) >= FEWEST_IN_BLOCKS
    nodes = np.flatnonzero(tree.parents >= 0)
    found = []
    for in_blocks in (True, False):
        model = load(tiny_dir).to("cuda")
        model.model.requires_grad_(True)
        assert attends_in_blocks(model)
        read_by(model, ways_of(model), in_blocks=in_blocks)
        log_prob = tree_log_probs(model, tree, nodes).log_prob
        weights = torch.linspace(-1, 1, len(log_prob), device="cuda")
        (log_prob * weights).sum().backward()
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        found.append((log_prob.detach(), torch.cat(grads)))
    for mine, theirs in zip(*found, strict=True):
        assert float((mine - theirs).norm() / theirs.norm()) < 1e-5


@pytest.mark.gpu
@on_gpu
def test_gradients_of_an_adapter_on_a_half_precision_base_are_those_in_float32(tiny_dir):
    tree = random_forest(np.random.default_rng(0), 30, 12, 40)
    nodes = np.flatnonzero(tree.parents >= 0)
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        model = add_adapter(load(tiny_dir).to("cuda", dtype), PolicyConfig(lora_rank=8), seed=0)
        log_prob = tree_log_probs(model, tree, nodes).log_prob
        weights = torch.linspace(-1, 1, len(log_prob), device="cuda")
        (log_prob * weights).sum().backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        assert {p.grad.dtype for p in trained} == {torch.float32}
        found.append((log_prob.detach(), torch.cat([p.grad.flatten() for p in trained])))
    for mine, theirs in zip(*found, strict=True):
        assert float((mine - theirs).norm() / theirs.norm()) < 0.1  # .03 in either way of LoRA


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("objective", [{"kind": "subtb"}, {"kind": "ref_tb"}])
def test_updates_on_a_gpu_are_updates_on_a_processor(tiny_dir, objective):
    config: InfillJob = job(objective)
    adapters = []
    for device in ("cuda", "cpu"):
        base = load(tiny_dir).to(device)
        support = make_support(vocab_size=base.config.vocab_size)
        trainer = PolicyTrainer(add_adapter(base, config.policy, config.seed), config, support)
        groups = groups_of(support)
        losses = [trainer.step(groups).metrics["loss"] for _ in range(5)]
        masks = torch.as_tensor(support.masks, device=device)
        with torch.no_grad():
            adapters.append((losses, log_q(trainer.model, groups, support, masks).log_q.tolist()))
    for mine, theirs in zip(*adapters, strict=True):
        assert mine == pytest.approx(theirs, rel=2e-3)


@pytest.mark.gpu
@on_gpu
def test_rewards_of_a_gpu_are_rewards_of_a_processor(tiny_dir):
    rng = np.random.default_rng(0)
    scored = []
    model = load(tiny_dir)
    support = make_support(vocab_size=model.config.vocab_size)
    queries = [random_query(rng, f"q{i}") for i in range(3)]
    pairs = [(q, t) for q in queries for t in random_trajectories(rng, support, q.query_id, 4)]
    for device in ("cpu", "cuda"):
        reward = LikelihoodReward(4096)
        placed = model.to(device)
        reward.load(lambda placed=placed: placed)
        scored.append([result.log_reward for result in reward.score(pairs)])
    for mine, theirs in zip(*scored, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-3, nan_ok=True)
