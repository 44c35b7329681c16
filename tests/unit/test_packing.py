"""Packed log-probabilities equal those of each branch alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from gfn_ray.packing.forward import tree_log_probs
from gfn_ray.packing.prefix_tree import ROOT, PrefixTree
from testing.examples import examples

PATHS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def model(tiny_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32).eval()


def history(tree: PrefixTree, node: int) -> list[int]:
    tokens = []
    while node != ROOT:
        tokens.append(int(tree.token_ids[node]))
        node = int(tree.parents[node])
    return tokens[::-1]


@given(PATHS)
def test_each_distinct_prefix_is_stored_once_and_reads_back_as_its_path(paths):
    tree = PrefixTree()
    nodes = [tree.add_path(path, ROOT) for path in paths]
    prefixes = {tuple(path[: k + 1]) for path in paths for k in range(len(path))}
    assert len(tree) == len(prefixes)
    for path, own in zip(paths, nodes, strict=True):
        assert [history(tree, node) for node in own] == [path[: k + 1] for k in range(len(path))]


@given(PATHS)
def test_a_node_sees_itself_and_its_ancestors_and_nothing_else(paths):
    tree = PrefixTree()
    for path in paths:
        tree.add_path(path, ROOT)
    seen = tree.spans().seen()
    for node in range(len(tree)):
        ancestors = set()
        up = node
        while up != ROOT:
            ancestors.add(up)
            up = int(tree.parents[up])
        assert set(np.flatnonzero(seen[node]).tolist()) == ancestors
        assert tree.position_ids[node] == len(ancestors) - 1


@examples(15)
@given(st.integers(0, 10_000))
def test_packed_log_probs_equal_one_forward_a_branch(model, seed):
    rng = np.random.default_rng(seed)
    tree, leaves = PrefixTree(), []
    for _ in range(2):  # two trees of three branches, some of which share a prefix
        prompt = rng.integers(10, 300, 5)
        root = tree.add_path(prompt, ROOT)[-1]
        stem = rng.integers(10, 300, 2)
        for keep in (0, 1, 2):
            branch = np.concatenate([stem[:keep], rng.integers(10, 300, 3)])
            leaves.append(tree.add_path(branch, root))
    nodes = sorted({node for path in leaves for node in path})
    with torch.no_grad():
        packed = tree_log_probs(model, tree, nodes).log_prob
        for node in nodes:
            ids = torch.tensor([history(tree, node)])
            alone = torch.log_softmax(model(ids[:, :-1]).logits[0, -1], dim=-1)[ids[0, -1]]
            assert packed[node] == pytest.approx(float(alone), abs=1e-4)


@examples(30)
@given(
    st.lists(st.lists(st.integers(10, 12), max_size=4), max_size=4),
    st.lists(st.booleans(), min_size=16, max_size=16),
)
def test_forests_of_any_size_and_of_which_anything_or_nothing_is_read(model, paths, read):
    tree = PrefixTree()
    for path in paths:
        tree.add_path(path, ROOT)
    nodes = [n for n in range(len(tree)) if tree.parents[n] != ROOT and read[n % len(read)]]
    with torch.no_grad():
        log_prob = tree_log_probs(model, tree, nodes).log_prob
        assert log_prob.shape == (len(tree),)
        for node in range(len(tree)):
            ids = torch.tensor([history(tree, node)])
            expected = 0.0
            if node in nodes:
                expected = float(model(ids[:, :-1]).logits[0, -1].log_softmax(-1)[ids[0, -1]])
            assert float(log_prob[node]) == pytest.approx(expected, abs=1e-4)


def test_prompts_share_how_they_begin_and_what_follows_each_is_its_own():
    tree = PrefixTree()
    first = tree.add_prompt([10, 11])
    second = tree.add_prompt([10, 11, 12])
    again = tree.add_prompt([10, 11])
    inside = tree.add_path([12], first)[0]
    assert len({first, second, again, inside}) == 4
    assert len(tree) == 6  # 10 of all three, and 11 of the second
    assert history(tree, second) == history(tree, inside) == [10, 11, 12]
    assert history(tree, first) == history(tree, again) == [10, 11]


def test_nodes_that_were_not_asked_for_read_zero(model):
    tree = PrefixTree()
    path = tree.add_path([10, 11, 12, 13], ROOT)
    with torch.no_grad():
        log_prob = tree_log_probs(model, tree, [path[2]]).log_prob
    assert log_prob[path[2]] < 0
    assert log_prob[[path[0], path[1], path[3]]].tolist() == [0, 0, 0]


def test_the_first_token_of_a_tree_cannot_be_scored(model):
    tree = PrefixTree()
    path = tree.add_path([10, 11], ROOT)
    with pytest.raises(ValueError, match="no history"):
        tree_log_probs(model, tree, [path[0]])


def test_a_leaf_after_which_nothing_is_read_is_not_computed(model, monkeypatch):
    tree = PrefixTree()
    root = tree.add_path([10, 11], ROOT)[-1]
    read = tree.add_path([12, 13, 14], root)
    tree.add_path([15, 16], root)  # in the forest, but nothing of it is asked for
    seen = []
    original = type(model.model).forward

    def forward(self, **inputs):
        seen.append(inputs["input_ids"][0].tolist())
        return original(self, **inputs)

    tree_log_probs(model, tree, read)  # the first one finds out what the model can do
    monkeypatch.setattr(type(model.model), "forward", forward)
    tree_log_probs(model, tree, read)
    assert seen == [[10, 11, 12, 13]]
