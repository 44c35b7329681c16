"""Log-probabilities of a causal LM on a packed forest.

Owns the attention mask, what of a forest is computed, and which of the ways to read it a model can
take. `head` turns hidden states into log-probabilities, `by_path` reads what cannot be packed.
Source of the idea: tree attention as in speculative decoding (Miao et al. 2023, SpecInfer), here
with gradients.
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

# Fewest nodes of a forest that is attended to in blocks. Below, a dense mask is as fast on an H100.
FEWEST_IN_BLOCKS = 2048
# Most that a head's own product may differ from the model's logits, as a share of the largest: they
# are the same product, unless the model does something else to its logits.
SAME_LOGITS = 1e-5


@dataclass(frozen=True)
class Ways:
    """forests: the model takes a tree's mask and positions, and heeds them. plain_head: its logits
    are a linear layer's of its last hidden states, and nothing is done to them after."""

    trees: bool
    plain_head: bool


_WAYS: WeakKeyDictionary[Any, Ways] = WeakKeyDictionary()
_IN_BLOCKS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class LegalTokens:
    """The support on a forest: who may follow a node.

    masks [M, V] bool: legality rows. row_of_node: for each node whose continuation is
    read, the row of `masks` that rules it. stop_ids [S]: tokens that end a sequence.
    """

    masks: Tensor
    row_of_node: dict[int, int]
    stop_ids: Tensor


@dataclass(frozen=True)
class NodeLogProbs:
    """log_prob [L]: log p(token | history) of each requested node, 0 elsewhere.
    log_stop [L]: log p(stop | history incl. the node) at requested nodes, 0 elsewhere."""

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
    """One forward pass over the forest; float32 (or wider) log-probabilities, in nats.

    model: a transformers causal LM that takes a 4-D attention mask, position_ids and
    logits_to_keep. nodes: nodes whose own token is scored; none of them may be the first
    token of a tree. legal: the support; logits outside it are removed before
    normalising. stop_nodes: nodes whose stopping log-probability is read (needs legal).
    """
    wanted = np.asarray(nodes, dtype=np.int64)
    stops = np.asarray(stop_nodes, dtype=np.int64)
    parents = tree.parents
    if (parents[wanted] == ROOT).any():
        raise ValueError("the first token of a tree has no history to be scored from")
    rows = np.unique(np.concatenate([parents[wanted], stops]))
    if len(stops) and legal is None:
        raise ValueError("stop_nodes needs the support that says which tokens stop")
    if not len(rows):
        return _nothing_read(model, tree)
    device = next(model.parameters()).device
    reads = Reads(
        picked_rows=_index(np.searchsorted(rows, parents[wanted]), device),
        picked_tokens=_index(tree.token_ids[wanted], device),
        stop_rows=_index(np.searchsorted(rows, stops), device),
        stop_ids=_index([], device) if legal is None else legal.stop_ids,
        kinds=_index([legal.row_of_node[int(n)] for n in rows], device) if legal else None,
        legal=legal.masks if legal else None,
    )
    picked, stopping = _read(model, tree, rows, reads, device)
    empty = picked.new_zeros(len(tree))
    log_prob = empty.index_put((_index(wanted, device),), picked)
    log_stop = empty.index_put((_index(stops, device),), stopping)
    return NodeLogProbs(log_prob, log_stop)


def _nothing_read(model: Any, tree: PrefixTree) -> NodeLogProbs:
    """Of z that a tool wrote whole, or that nothing is left to say of: no forward, no gradient."""
    weight = next(model.parameters())
    trained = torch.is_grad_enabled() and any(p.requires_grad for p in model.parameters())
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    # Those who go backward from a loss of these alone may do so, and move nothing.
    zeros = torch.zeros(len(tree), dtype=wide, device=weight.device, requires_grad=trained)
    return NodeLogProbs(zeros, zeros)


def supports_trees(model: Any) -> bool:
    """Whether the model takes a tree's mask and positions, and heeds them."""
    return ways_of(model).trees


def read_by(model: Any, ways: Ways, *, in_blocks: bool) -> None:
    """From now on the model is read like this, as it must be able to: to compare the ways."""
    _WAYS[model] = ways
    _IN_BLOCKS[model] = in_blocks


def ways_of(model: Any) -> Ways:
    """Tried out once, on a small forest, against one forward a path."""
    if model not in _WAYS:
        _WAYS[model] = _try_out(model, in_blocks=False)
    return _WAYS[model]


def attends_in_blocks(model: Any) -> bool:
    """Whether the model takes a tree's mask as blocks, and heeds them. Tried out once, which takes
    a quarter of a minute: FlexAttention is compiled."""
    if model not in _IN_BLOCKS:
        _IN_BLOCKS[model] = next(model.parameters()).is_cuda and _try_blocks(model)
    return _IN_BLOCKS[model]


def _try_blocks(model: Any) -> bool:
    from gfn_ray.packing.blocks import attend_in_blocks

    usual = model.config.get_text_config()._attn_implementation
    if usual != "sdpa":
        return False  # blocks hand a dense mask on to SDPA, which is not how this model attends
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
    device = next(model.parameters()).device
    try:
        packed = model(**_inputs(model, tree, rows, device, in_blocks)).logits[0]
        if packed.requires_grad:  # what can go forward may still not go back
            trained = [p for p in model.parameters() if p.requires_grad]
            torch.autograd.grad(packed.float().logsumexp(-1).sum(), trained, allow_unused=True)
        with torch.no_grad():
            plain_head = _head_is_plain(model, tree, packed, device, in_blocks)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        if out_of_memory(error):
            raise  # says nothing of the model, and would be remembered as if it did
        # By what it says of the mask or of an argument.
        if in_blocks:
            log.warning("a dense mask serves, slower for large forests than blocks: %s", error)
        return Ways(trees=False, plain_head=False)
    with torch.no_grad():
        alone = logits_unpacked(model, tree, rows, device)
    counts_places = _has_alibi(model.config.get_text_config())
    return Ways(agree(packed, alone) and not counts_places, plain_head)


def _has_alibi(config: Any) -> bool:
    """Whether attention is said to fall with the distance in the sequence, whatever the position
    ids: a few nodes of a model that hardly attends do not show it."""
    inner = getattr(config, "attn_config", None)  # MPT's
    return (
        bool(getattr(config, "alibi", False) or getattr(inner, "alibi", False))
        or getattr(config, "position_embedding_type", None) == "alibi"
    )


def _small_tree(vocab_size: int) -> PrefixTree:
    """Of ordinary tokens: the first are a tokenizer's special ones, whose logits at half precision
    are little but rounding."""
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
        return False  # the model has no such body, or the body hides them
    if hidden.shape[1] != head.weight.shape[1]:
        return False
    apart = (F.linear(hidden, head.weight, head.bias) - logits).abs().max()
    return bool(apart <= SAME_LOGITS * logits.abs().max())


def _read(
    model: Any,
    tree: PrefixTree,
    rows: npt.NDArray[np.int64],
    reads: Reads,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """What is wanted of the logits after the given nodes."""
    ways = ways_of(model)
    if not (ways.trees and _fits_windows(model.config.get_text_config(), tree)):
        return read_logits(logits_unpacked(model, tree, rows, device), reads)
    in_blocks = len(tree) >= FEWEST_IN_BLOCKS and attends_in_blocks(model)
    head = model.get_output_embeddings()
    # Its own gradient is not among those that read_hidden gives.
    if ways.plain_head and not any(p.requires_grad for p in head.parameters()):
        return read_hidden(_hidden(model, tree, rows, device, in_blocks), head, reads)
    inputs = _inputs(model, tree, rows, device, in_blocks)
    return read_logits(model(**inputs).logits[0], reads)


def _fits_windows(config: Any, tree: PrefixTree) -> bool:
    """Whether every node may see all of its ancestors. A mask that is given whole leaves out the
    windows that a model would cut from its own."""
    # The last, of GPT-Neo, counts places in the sequence and not positions.
    spans = {"sliding_window": 0, "attention_chunk_size": 0, "window_size": len(tree)}
    longest = int(tree.position_ids.max()) + 1
    return all(
        max(longest, span) <= window
        for name, span in spans.items()
        if isinstance(window := getattr(config, name, None), int)
    )


def _hidden(
    model: Any,
    tree: PrefixTree,
    rows: npt.NDArray[np.int64],
    device: torch.device,
    in_blocks: bool,
) -> Tensor:
    """Last hidden states [R, H] after the given nodes."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    inputs = _inputs(model, tree, rows, device, in_blocks)
    kept = inputs.pop("logits_to_keep")
    states: Tensor = getattr(causal, causal.base_model_prefix)(**inputs).last_hidden_state
    return states[0, kept]


def _inputs(
    model: Any,
    tree: PrefixTree,
    rows: npt.NDArray[np.int64],
    device: torch.device,
    in_blocks: bool,
) -> dict[str, Any]:
    """A forward on what the given nodes depend on: a leaf whose token is scored, and after which
    nothing is read, has no need of being computed."""
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
