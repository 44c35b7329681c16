"""The count of operations is torch's own count of what the passes do."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, addmm_flop
from transformers import LlamaConfig, LlamaForCausalLM

from flops import Architecture, Work, backward, bytes_read, decoded, forward, shared
from gfn_ray.config import PolicyConfig
from gfn_ray.policy.adapter import add_adapter

CONFIG = LlamaConfig(
    vocab_size=500,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    attn_implementation="eager",  # whose products the counter sees one by one
)
TOKENS, ROWS = 24, 5
# Eager attention multiplies every token with every other, whatever the mask.
WORK = Work(TOKENS, pairs=TOKENS**2, rows=ROWS)
# A LoRA layer adds its product in place, which the counter passes over.
IN_PLACE = {torch.ops.aten.addmm_: addmm_flop.__wrapped__}
# Angles of the positions are a product, too, and not of the model's weights.
REL = 1e-3


def counted(rank, train):
    """By torch: a pass over TOKENS, and its gradient."""
    model = LlamaForCausalLM(CONFIG).requires_grad_(False)
    if rank:
        model = add_adapter(model, PolicyConfig(lora_rank=rank), seed=0)
    counter = FlopCounterMode(display=False, custom_mapping=IN_PLACE)
    with counter, torch.set_grad_enabled(train):
        ids = torch.arange(TOKENS)[None]
        logits = model(input_ids=ids, logits_to_keep=torch.arange(ROWS), use_cache=False).logits
        if train:
            logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("rank", [0, 8])
def test_a_forward_pass_has_as_many_operations_as_torch_counts(rank):
    model = Architecture.of(CONFIG, rank)
    assert forward(model, WORK) == pytest.approx(counted(rank, train=False), rel=REL)


@pytest.mark.parametrize("rank", [1, 8])
def test_an_adapters_gradient_has_as_many_operations_as_torch_counts(rank):
    model = Architecture.of(CONFIG, rank)
    whole = forward(model, WORK) + backward(model, WORK)
    assert whole == pytest.approx(counted(rank, train=True), rel=REL)


def test_every_weight_is_read_once():
    model = LlamaForCausalLM(CONFIG)
    read = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2)
    read -= CONFIG.vocab_size * CONFIG.hidden_size  # a row of the embeddings for each token only
    assert bytes_read(Architecture.of(CONFIG, 0), WORK, width=4) == 4 * read


def test_the_cache_is_read_for_what_is_cached():
    model = Architecture.of(CONFIG, 0)
    more = bytes_read(model, Work(1, 11, 1, cached=10), 2) - bytes_read(model, Work(1, 1, 1), 2)
    assert more == 2 * 10 * 2 * 3 * (2 * 32)


def test_equal_prefixes_are_passed_and_read_once():
    #      1 - 2 - 3 - 4
    #            \ 5
    assert shared([([1, 2, 3, 4], 2), ([1, 2, 5], 2)]) == Work(tokens=5, pairs=13, rows=4)
    assert shared([([1, 2], 1)]) == Work(2, 3, 2)


def test_sampling_reads_prompts_once_and_then_a_token_of_every_z_that_goes_on():
    assert decoded([(3, [2, 4]), (5, [1])], longest=4) == [
        Work(tokens=8, pairs=6 + 15, rows=2),
        Work(tokens=3, pairs=4 + 4 + 6, rows=3, cached=3 + 5),
        Work(tokens=2, pairs=5 + 5, rows=2, cached=3 + 2),
        Work(tokens=1, pairs=6, rows=1, cached=3 + 2),
    ]
