"""Reading log-probabilities off hidden states is reading them off the logits, a chunk at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from gfn_ray.packing import head
from gfn_ray.packing.forward import tree_log_probs
from gfn_ray.packing.head import ROWS, Reads, read_hidden, read_logits
from gfn_ray.packing.prefix_tree import ROOT, PrefixTree
from gfn_ray.policy.log_q import TrajectoryGroup, log_q
from gfn_ray.tasks.arithmetic.config import ArithmeticConfig, ArithmeticJob
from gfn_ray.tasks.arithmetic.task import ArithmeticTask
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tasks.infill.task import InfillTask
from gfn_ray.tasks.random_number.config import RandomNumberConfig, RandomNumberJob
from gfn_ray.tasks.random_number.task import RandomNumberTask
from testing.examples import examples
from testing.families import LLAMA
from testing.makers import make_trajectory, random_ids

WIDTH, VOCABULARY = 6, 23


def reads_of(rows, seed, *, supported, columns=VOCABULARY):
    """Random picks and stops of that many rows, some rows twice and some never.

    columns: of the tokens, how many at the beginning may be legal.
    """
    draw = torch.Generator().manual_seed(seed)
    integers = lambda high, count: torch.randint(0, high, (count,), generator=draw)  # noqa: E731
    stop_ids = torch.tensor([3, 8])
    legal = torch.rand(3, VOCABULARY, generator=draw) < 0.7
    legal[:, columns:] = False
    legal[:, [0, 3]] = True  # something to pick, and a way to stop
    return Reads(
        picked_rows=integers(rows, 2 * rows),
        picked_tokens=torch.zeros(2 * rows, dtype=torch.int64)
        if supported
        else integers(23, 2 * rows),
        stop_rows=integers(rows, rows // 2 + 1),
        stop_ids=stop_ids,
        kinds=integers(3, rows) if supported else None,
        legal=legal if supported else None,
    )


@examples(20)
@given(
    rows=st.sampled_from([1, 7, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 3]),
    seed=st.integers(0, 1000),
    supported=st.booleans(),
    columns=st.sampled_from([5, 10, 12, VOCABULARY]),  # a head of the legal tokens, and a whole one
    bias=st.booleans(),
)
def test_values_and_gradients_are_those_of_all_logits_at_once(rows, seed, supported, columns, bias):
    torch.manual_seed(seed)
    layer = torch.nn.Linear(WIDTH, VOCABULARY, bias=bias).double().requires_grad_(False)
    hidden = torch.randn(rows, WIDTH, dtype=torch.float64, requires_grad=True)
    reads = reads_of(rows, seed, supported=supported, columns=columns)
    mine = read_hidden(hidden, layer, reads)
    theirs = read_logits(layer(hidden), reads)
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)
    weights = [torch.randn_like(one) for one in theirs]
    gradients = [
        torch.autograd.grad(sum((v * w).sum() for v, w in zip(of, weights, strict=True)), hidden)[0]
        for of in (mine, theirs)
    ]
    assert torch.allclose(*gradients, rtol=1e-10, atol=1e-12)


def test_without_a_gradient_no_more_than_a_chunk_of_logits_is_ever_held():
    rows, vocabulary = 4 * ROWS, 4096
    layer = torch.nn.Linear(WIDTH, vocabulary, bias=False).requires_grad_(False)
    largest = 0

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    with torch.no_grad(), Largest():
        read_hidden(torch.randn(rows, WIDTH), layer, reads_of(rows, 0, supported=False))
    assert largest <= ROWS * vocabulary


def random_z(rng, support):
    """A z of uniformly drawn legal tokens."""
    tokens, cursor = [], support.cursor()
    while True:
        token = int(rng.choice(np.flatnonzero(support.masks[cursor.row])))
        if token in support.stop_ids:
            return np.array(tokens, dtype=np.int32)
        tokens.append(token)
        cursor.advance(token)


@pytest.mark.parametrize(
    ("task", "narrow"),
    [
        (RandomNumberTask(RandomNumberJob()), True),
        (RandomNumberTask(RandomNumberJob(task=RandomNumberConfig(support="full"))), False),
        (ArithmeticTask(ArithmeticJob(task=ArithmeticConfig(calculator=False))), True),
        (InfillTask(InfillJob()), False),
    ],
    ids=["digits", "all tokens", "calculations", "lines"],
)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_log_q_and_its_gradients_are_those_of_a_whole_head(
    tiny_dir, task, narrow, tied, bias, monkeypatch
):
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    support, rng = task.support(tokenizer, len(tokenizer)), np.random.default_rng(0)
    model = random_llama(len(tokenizer), tied, bias)
    groups = [
        TrajectoryGroup(
            random_ids(rng, 7),
            [make_trajectory(support, "q", random_z(rng, support)) for _ in range(5)],
        )
        for _ in range(2)
    ]
    sizes = []

    def found():
        log_p = log_q(model, groups, support, torch.from_numpy(support.masks))
        values = log_p.log_pf.sum() + (log_p.log_stop * torch.arange(log_p.log_stop.shape[1])).sum()
        trained = [p for p in model.parameters() if p.requires_grad]
        return log_p.log_q, torch.autograd.grad(values, trained)

    def heads(*given):
        narrowed = legal_only(*given)
        sizes.append(len(narrowed[0]))
        return narrowed

    legal_only = head._legal_only
    monkeypatch.setattr(head, "_legal_only", heads)
    mine = found()
    monkeypatch.setattr(head, "_legal_only", lambda *given: given)
    theirs = found()
    assert (max(sizes) < len(tokenizer) / 2) == narrow
    assert torch.allclose(mine[0], theirs[0], rtol=2e-6, atol=2e-6)
    for one, other in zip(mine[1], theirs[1], strict=True):
        assert float((one - other).norm()) <= 2e-6 * float(other.norm())


def random_llama(vocab_size, tied, bias):
    """Its head is frozen, all but that trained; where it is tied, the embedding is frozen, too."""
    config = AutoConfig.for_model("llama", vocab_size=vocab_size, **LLAMA, tie_word_embeddings=tied)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    if bias:
        model.lm_head.bias = torch.nn.Parameter(torch.randn(vocab_size))
    model.lm_head.requires_grad_(False)
    return model


@pytest.mark.parametrize("changed", ["softcap", "trained"])
def test_a_head_that_is_more_than_a_frozen_product_is_left_to_the_model(changed):
    config = AutoConfig.for_model(
        "gemma2",
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        final_logit_softcapping=2.0 if changed == "softcap" else None,
        attn_logit_softcapping=None,
        sliding_window=64,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.requires_grad_(changed == "trained")
    tree = PrefixTree()
    path = tree.add_path([5, 6, 7, 8], ROOT)
    log_prob = tree_log_probs(model, tree, path[1:]).log_prob
    alone = model(torch.tensor([[5, 6, 7, 8]])).logits[0, :-1].log_softmax(-1)
    expected = alone[torch.arange(3), torch.tensor([6, 7, 8])]
    assert torch.allclose(log_prob[path[1:]], expected, atol=1e-5)
    if changed == "trained":
        weight = model.get_output_embeddings().weight
        mine, theirs = (torch.autograd.grad(v.sum(), weight)[0] for v in (log_prob, expected))
        assert torch.allclose(mine, theirs, atol=1e-5)
