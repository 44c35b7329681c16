"""Log-probabilities of a causal LM on packed prefix trees.

Builds the attention mask, selects the nodes to compute, and detects which forward passes a model
supports. `head` turns hidden states into log-probabilities; `unpacked` serves models that cannot
read packed trees. Source of the idea: tree attention as in speculative decoding (Miao et al. 2023,
SpecInfer), here with gradients.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from gfn_ray.errors import out_of_memory
from gfn_ray.models.attention import agree
from gfn_ray.packing.head import Reads, read_hidden, read_logits
from gfn_ray.packing.prefix_tree import ROOT, PrefixTree, Spans
from gfn_ray.packing.unpacked import logits_unpacked

log = logging.getLogger(__name__)

# Fewest nodes for attention in blocks. Below, a dense mask is as fast on an H100.
FEWEST_IN_BLOCKS = 2048
# Largest difference between the head's product and the model's logits, relative to the largest
# logit: they are the same product, unless the model transforms its logits.
SAME_LOGITS = 1e-5


@dataclass(frozen=True)
class Ways:
    """trees: the model accepts a tree's mask and positions, and respects them. plain_head: its
    logits are a linear layer of its last hidden states, with nothing applied after it."""

    trees: bool
    plain_head: bool


_WAYS: WeakKeyDictionary[Any, Ways] = WeakKeyDictionary()
_IN_BLOCKS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class LegalTokens:
    """The support on packed trees: which tokens may follow a node.

    masks [M, V] bool: legality rows. row_of_node: for each node whose continuation is
    read, its row of `masks`. stop_ids [S]: tokens that end a sequence.
    """

    masks: Tensor
    row_of_node: dict[int, int]
    stop_ids: Tensor


@dataclass(frozen=True)
class NodeLogProbs:
    """log_prob [L]: log p(token | history) of each requested node, 0 elsewhere.
    log_stop [L]: log p(stop | history, node included) at requested nodes, 0 elsewhere."""

    log_prob: Tensor
    log_stop: Tensor


def tree_log_probs(
    model: Any,
    tree: PrefixTree,
    nodes: npt.ArrayLike,
    *,
    legal: LegalTokens | None = None,
    stop_nodes: npt.ArrayLike = (),
) -> NodeLogProbs:
    """Runs one forward pass over the trees; log-probabilities in nats, float32 or wider.

    model: a transformers causal LM that takes a 4-D attention mask, position_ids and
    logits_to_keep. nodes: nodes whose own token is scored; none of them may be the first
    token of a tree. legal: the support; logits outside it are masked before
    normalising. stop_nodes: nodes whose stopping log-probability is read (needs legal).
    """
    wanted = np.asarray(nodes, dtype=np.int64)
    stops = np.asarray(stop_nodes, dtype=np.int64)
    parents = tree.parents
    if (parents[wanted] == ROOT).any():
        raise ValueError("the first token of a tree has no history to score it from")
    rows = np.unique(np.concatenate([parents[wanted], stops]))
    if len(stops) and legal is None:
        raise ValueError("stop_nodes needs a support, which says which tokens stop")
    if not len(rows):
        if legal is None or not _is_spread(model):
            return _nothing_read(model, tree)
        rows = np.array([next(iter(legal.row_of_node))])  # the other ranks make this pass, too
    device = _head_device(model)
    reads = Reads(
        picked_rows=_index(np.searchsorted(rows, parents[wanted]), device),
        picked_tokens=_index(tree.token_ids[wanted], device),
        stop_rows=_index(np.searchsorted(rows, stops), device),
        stop_ids=_index([], device) if legal is None else legal.stop_ids,
        kinds=_index([legal.row_of_node[int(n)] for n in rows], device) if legal else None,
        legal=legal.masks if legal else None,
    )
    picked, stopping = _read(model, tree, rows, reads)
    empty = picked.new_zeros(len(tree))
    log_prob = empty.index_put((_index(wanted, device),), picked)
    log_stop = empty.index_put((_index(stops, device),), stopping)
    return NodeLogProbs(log_prob, log_stop)


def _nothing_read(model: Any, tree: PrefixTree) -> NodeLogProbs:
    """Returns zeros without a forward pass, for z that only a tool wrote or that must stop."""
    weight = next(model.parameters())
    trained = torch.is_grad_enabled() and any(p.requires_grad for p in model.parameters())
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    # A backward pass from a loss of these alone is possible, and changes nothing.
    zeros = torch.zeros(len(tree), dtype=wide, device=weight.device, requires_grad=trained)
    return NodeLogProbs(zeros, zeros)


def _is_spread(model: Any) -> bool:
    """Whether the model's layers are spread over several processes, which make passes together."""
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(module, FSDPModule) for module in model.modules())


def _input_device(model: Any) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device


def _head_device(model: Any) -> torch.device:
    """Where log-probabilities are read: not where inputs go, if layers lie on several devices."""
    return _input_device(model.get_output_embeddings() or model)


def _on_one_device(model: Any) -> bool:
    return len({parameter.device for parameter in model.parameters()}) == 1


def supports_trees(model: Any) -> bool:
    """Whether the model accepts a tree's mask and positions, and respects them."""
    return ways_of(model).trees


def read_by(model: Any, ways: Ways, *, in_blocks: bool) -> None:
    """Forces how the model is read, to compare forward passes; it must support this one."""
    _WAYS[model] = ways
    _IN_BLOCKS[model] = in_blocks


def ways_of(model: Any) -> Ways:
    """Returns how the model can be read; tested once, on a small tree, against one row per path."""
    if model not in _WAYS:
        _WAYS[model] = _try_out(model, in_blocks=False)
    return _WAYS[model]


def attends_in_blocks(model: Any) -> bool:
    """Whether the model accepts a tree's mask as blocks, and respects it. Tested once, which takes
    15 seconds because FlexAttention is compiled."""
    if model not in _IN_BLOCKS:
        cuda = _input_device(model).type == "cuda"
        # A block mask keeps tensors on one device, and a layer on another could not read them.
        _IN_BLOCKS[model] = cuda and _on_one_device(model) and _try_blocks(model)
    return _IN_BLOCKS[model]


def _try_blocks(model: Any) -> bool:
    from gfn_ray.packing.blocks import attend_in_blocks

    usual = model.config.get_text_config()._attn_implementation
    if usual != "sdpa":
        return False  # blocks pass dense masks to SDPA, and this model does not use SDPA
    try:
        attend_in_blocks(model)
    except ValueError:
        return False
    if _try_out(model, in_blocks=True).trees:
        return True
    model.set_attn_implementation(usual)
    return False


def _try_out(model: Any, *, in_blocks: bool) -> Ways:
    tree = _small_tree(model.config.get_text_config().vocab_size)
    rows = np.arange(len(tree))
    device = _input_device(model)
    try:
        packed = _logits(model, tree, rows, device, in_blocks)
        if packed.requires_grad:  # a forward that works may still have no backward
            trained = [p for p in model.parameters() if p.requires_grad]
            torch.autograd.grad(packed.float().logsumexp(-1).sum(), trained, allow_unused=True)
        with torch.no_grad():
            plain_head = _head_is_plain(model, tree, packed, device, in_blocks)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        if out_of_memory(error):
            raise  # says nothing about the model, so it must not be cached
        # The model rejects the mask or an argument.
        if in_blocks:
            log.warning(
                "using a dense mask, which is slower for large trees than blocks: %s", error
            )
        return Ways(trees=False, plain_head=False)
    with torch.no_grad():
        alone = logits_unpacked(model, tree, rows, device)
    counts_places = _has_alibi(model.config.get_text_config())
    return Ways(agree(packed, alone) and not counts_places, plain_head)


def _has_alibi(config: Any) -> bool:
    """Whether the configuration names ALiBi, whose attention depends on distance in the sequence
    and not on position ids: a small tree may not reveal it in a model that attends weakly."""
    inner = getattr(config, "attn_config", None)  # MPT's
    return (
        bool(getattr(config, "alibi", False) or getattr(inner, "alibi", False))
        or getattr(config, "position_embedding_type", None) == "alibi"
    )


def _small_tree(vocab_size: int) -> PrefixTree:
    """Returns a tree of ordinary tokens: the first ids are a tokenizer's special tokens, whose
    logits at half precision are mostly rounding error."""
    tokens = np.random.default_rng(0).integers(vocab_size // 20, vocab_size, 10).tolist()
    tree = PrefixTree()
    stem = tree.add_prompt(tokens[:6])
    for branch in ([6, 7, 8, 9], [6, 8, 7], [7, 6]):
        tree.add_path([tokens[place] for place in branch], stem)
    return tree


def _head_is_plain(
    model: Any, tree: PrefixTree, logits: Tensor, device: torch.device, in_blocks: bool
) -> bool:
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        return False
    try:
        hidden = _hidden(model, tree, np.arange(len(tree)), device, in_blocks)
    except AttributeError:
        return False  # the model has no such body, or the body does not return them
    if hidden.shape[1] != head.weight.shape[1]:
        return False
    hidden = hidden.to(head.weight.device)
    apart = (F.linear(hidden, head.weight, head.bias).to(logits.device) - logits).abs().max()
    return bool(apart <= SAME_LOGITS * logits.abs().max())


def _read(
    model: Any,
    tree: PrefixTree,
    rows: npt.NDArray[np.int64],
    reads: Reads,
) -> tuple[Tensor, Tensor]:
    """Returns the log-probabilities that `reads` asks for, from logits after the given nodes, on
    the device of `reads`."""
    ways, device, there = ways_of(model), _input_device(model), reads.picked_rows.device
    if not (ways.trees and _fits_windows(model.config.get_text_config(), tree)):
        return read_logits(logits_unpacked(model, tree, rows, device).to(there), reads)
    in_blocks = len(tree) >= FEWEST_IN_BLOCKS and attends_in_blocks(model)
    head = model.get_output_embeddings()
    # read_hidden gives no gradient to the head itself.
    if ways.plain_head and not any(p.requires_grad for p in head.parameters()):
        hidden = _hidden(model, tree, rows, device, in_blocks)
        return read_hidden(hidden.to(there), head, reads)
    return read_logits(_logits(model, tree, rows, device, in_blocks).to(there), reads)


def _fits_windows(config: Any, tree: PrefixTree) -> bool:
    """Whether every node may see all of its ancestors. A given mask replaces the model's own, with
    the attention windows that this would apply."""
    longest = int(tree.position_ids.max()) + 1
    for name, window in windows(config).items():
        # GPT-Neo's counts indices in the sequence and not positions.
        if (max(longest, len(tree)) if name == "window_size" else longest) > window:
            return False
    return True


def windows(config: Any) -> dict[str, int]:
    """The attention windows of a model, in tokens, by the names of its settings."""
    names = ("sliding_window", "attention_chunk_size", "window_size")
    found = {name: getattr(config, name, None) for name in names}
    return {name: window for name, window in found.items() if isinstance(window, int)}


def _logits(
    model: Any,
    tree: PrefixTree,
    rows: npt.NDArray[np.int64],
    device: torch.device,
    in_blocks: bool,
) -> Tensor:
    """Returns the logits [N, V] after the given nodes."""
    inputs = _inputs(model, tree, rows, device, in_blocks)
    if _on_one_device(model):
        only: Tensor = model(**inputs).logits[0]
        return only
    # The model's hooks would move the index to the first layer's device, away from the last one's.
    kept = inputs.pop("logits_to_keep")
    every: Tensor = model(**inputs).logits[0]
    return every[kept.to(every.device)]


def _hidden(
    model: Any,
    tree: PrefixTree,
    rows: npt.NDArray[np.int64],
    device: torch.device,
    in_blocks: bool,
) -> Tensor:
    """Returns the last hidden states [R, H] at the given nodes."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    inputs = _inputs(model, tree, rows, device, in_blocks)
    kept = inputs.pop("logits_to_keep")
    states: Tensor = getattr(causal, causal.base_model_prefix)(**inputs).last_hidden_state
    return states[0, kept.to(states.device)]


def _inputs(
    model: Any,
    tree: PrefixTree,
    rows: npt.NDArray[np.int64],
    device: torch.device,
    in_blocks: bool,
) -> dict[str, Any]:
    """Returns the inputs for the given nodes and their ancestors: a leaf whose token is scored, but
    after which nothing is read, need not be computed."""
    kept = tree.with_ancestors(rows)
    return {
        "input_ids": _index(tree.token_ids[kept], device)[None],
        "position_ids": _index(tree.position_ids[kept], device)[None],
        "attention_mask": _mask(model, tree.spans().of(kept), device, in_blocks),
        "logits_to_keep": _index(np.searchsorted(kept, rows), device),
        "use_cache": False,
    }


def _mask(model: Any, spans: Spans, device: torch.device, in_blocks: bool) -> Any:
    if in_blocks:
        from gfn_ray.packing.blocks import block_mask

        return block_mask(spans, device)
    seen = torch.from_numpy(spans.seen()).to(device)
    dtype = next(model.parameters()).dtype
    mask = torch.zeros(seen.shape, dtype=dtype, device=device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)[None, None]


def _index(values: npt.ArrayLike, device: torch.device) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.int64), device=device)
