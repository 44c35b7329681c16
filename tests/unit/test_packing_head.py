"""Reading log-probabilities off hidden states is reading them off the logits, a chunk at a time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from gfn_ray.packing.forest import ROOT, TokenForest
from gfn_ray.packing.forward import forest_log_probs
from gfn_ray.packing.head import ROWS, Reads, read_hidden, read_logits
from testing.examples import examples

WIDTH, VOCABULARY = 6, 23


def reads_of(rows, seed, *, supported):
    """Random picks and stops of that many rows, some rows twice and some never."""
    draw = torch.Generator().manual_seed(seed)
    integers = lambda high, count: torch.randint(0, high, (count,), generator=draw)  # noqa: E731
    stop_ids = torch.tensor([3, 8])
    legal = torch.rand(3, VOCABULARY, generator=draw) < 0.7
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
    bias=st.booleans(),
)
def test_values_and_gradients_are_those_of_all_logits_at_once(rows, seed, supported, bias):
    torch.manual_seed(seed)
    head = torch.nn.Linear(WIDTH, VOCABULARY, bias=bias).double().requires_grad_(False)
    hidden = torch.randn(rows, WIDTH, dtype=torch.float64, requires_grad=True)
    reads = reads_of(rows, seed, supported=supported)
    mine = read_hidden(hidden, head, reads)
    theirs = read_logits(head(hidden), reads)
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
    head = torch.nn.Linear(WIDTH, vocabulary, bias=False).requires_grad_(False)
    largest = 0

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    with torch.no_grad(), Largest():
        read_hidden(torch.randn(rows, WIDTH), head, reads_of(rows, 0, supported=False))
    assert largest <= ROWS * vocabulary


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
    forest = TokenForest()
    path = forest.add_path([5, 6, 7, 8], ROOT)
    log_prob = forest_log_probs(model, forest, path[1:]).log_prob
    alone = model(torch.tensor([[5, 6, 7, 8]])).logits[0, :-1].log_softmax(-1)
    expected = alone[torch.arange(3), torch.tensor([6, 7, 8])]
    assert torch.allclose(log_prob[path[1:]], expected, atol=1e-5)
    if changed == "trained":
        head = model.get_output_embeddings().weight
        mine, theirs = (torch.autograd.grad(v.sum(), head)[0] for v in (log_prob, expected))
        assert torch.allclose(mine, theirs, atol=1e-5)
