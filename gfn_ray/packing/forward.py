"""Log-probabilities of a causal LM on a packed forest.

Owns the attention mask, what of a forest is computed, and which of the ways to read it a model can
take. `head` turns hidden states into log-probabilities, `by_path` reads what cannot be packed.
Source of the idea: tree attention as in speculative decoding (Miao et al. 2023, SpecInfer), here
with gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from gfn_ray.errors import out_of_memory
from gfn_ray.packing.by_path import logits_by_path
from gfn_ray.packing.forest import ROOT, TokenForest
from gfn_ray.packing.head import Reads, read_hidden, read_logits

# Most nats between the two ways on the same weights: bfloat16 strays by less, a token that is seen
# or not seen by mistake by more.
AGREEMENT = 0.1
# Most that a head's own product may differ from the model's logits, as a share of the largest: they
# are the same product, unless the model does something else to its logits.
SAME_LOGITS = 1e-5


@dataclass(frozen=True)
class Ways:
    """forests: the model takes a tree's mask and positions, and heeds them. plain_head: its logits
    are a linear layer's of its last hidden states, and nothing is done to them after."""

    forests: bool
    plain_head: bool


_WAYS: WeakKeyDictionary[Any, Ways] = WeakKeyDictionary()


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


def forest_log_probs(
    model: Any,
    forest: TokenForest,
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
    parents = forest.parents
    if (parents[wanted] == ROOT).any():
        raise ValueError("the first token of a tree has no history to be scored from")
    rows = np.unique(np.concatenate([parents[wanted], stops]))
    device = next(model.parameters()).device
    if len(stops) and legal is None:
        raise ValueError("stop_nodes needs the support that says which tokens stop")
    reads = Reads(
        picked_rows=_index(np.searchsorted(rows, parents[wanted]), device),
        picked_tokens=_index(forest.token_ids[wanted], device),
        stop_rows=_index(np.searchsorted(rows, stops), device),
        stop_ids=_index([], device) if legal is None else legal.stop_ids,
        kinds=_index([legal.row_of_node[int(n)] for n in rows], device) if legal else None,
        legal=legal.masks if legal else None,
    )
    picked, stopping = _read(model, forest, rows, reads, device)
    empty = picked.new_zeros(len(forest))
    log_prob = empty.index_put((_index(wanted, device),), picked)
    log_stop = empty.index_put((_index(stops, device),), stopping)
    return NodeLogProbs(log_prob, log_stop)


def reads_forests(model: Any) -> bool:
    """Whether the model takes a tree's mask and positions, and heeds them."""
    return _ways(model).forests


@torch.no_grad()
def _ways(model: Any) -> Ways:
    """Tried out once, on a small forest, against one forward a path."""
    if model not in _WAYS:
        forest = TokenForest()
        stem = forest.add_tree([1, 2, 3])
        for branch in ([4, 5, 6, 7], [4, 6, 5], [5, 4]):
            forest.add_path(branch, stem)
        rows = np.arange(len(forest))
        device = next(model.parameters()).device
        try:
            packed = model(**_inputs(model, forest, rows, device)).logits[0]
            plain_head = _head_is_plain(model, forest, packed, device)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            if out_of_memory(error):
                raise  # says nothing of the model, and would be remembered as if it did
            # By what it says of the mask or of an argument.
            _WAYS[model] = Ways(forests=False, plain_head=False)
        else:
            alone = logits_by_path(model, forest, rows, device).float().log_softmax(-1)
            agrees = (packed.float().log_softmax(-1) - alone).abs().max() < AGREEMENT
            _WAYS[model] = Ways(bool(agrees), plain_head)
    return _WAYS[model]


def _head_is_plain(model: Any, forest: TokenForest, logits: Tensor, device: torch.device) -> bool:
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        return False
    try:
        hidden = _hidden(model, forest, np.arange(len(forest)), device)
    except AttributeError:
        return False  # the model has no such body, or the body hides them
    if hidden.shape[1] != head.weight.shape[1]:
        return False
    apart = (F.linear(hidden, head.weight, head.bias) - logits).abs().max()
    return bool(apart <= SAME_LOGITS * logits.abs().max())


def _read(
    model: Any,
    forest: TokenForest,
    rows: npt.NDArray[np.int64],
    reads: Reads,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """What is wanted of the logits after the given nodes."""
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    fits = window is None or int(forest.position_ids.max()) < window
    ways = _ways(model)
    if not (fits and ways.forests):
        return read_logits(logits_by_path(model, forest, rows, device), reads)
    head = model.get_output_embeddings()
    # Its own gradient is not among those that read_hidden gives.
    if ways.plain_head and not any(p.requires_grad for p in head.parameters()):
        return read_hidden(_hidden(model, forest, rows, device), head, reads)
    return read_logits(model(**_inputs(model, forest, rows, device)).logits[0], reads)


def _hidden(
    model: Any, forest: TokenForest, rows: npt.NDArray[np.int64], device: torch.device
) -> Tensor:
    """Last hidden states [R, H] after the given nodes."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    inputs = _inputs(model, forest, rows, device)
    kept = inputs.pop("logits_to_keep")
    states: Tensor = getattr(causal, causal.base_model_prefix)(**inputs).last_hidden_state
    return states[0, kept]


def _inputs(
    model: Any, forest: TokenForest, rows: npt.NDArray[np.int64], device: torch.device
) -> dict[str, Any]:
    """A forward on what the given nodes depend on: a leaf whose token is scored, and after which
    nothing is read, has no need of being computed."""
    kept = forest.with_ancestors(rows)
    seen = torch.from_numpy(forest.ancestors()[np.ix_(kept, kept)]).to(device)
    dtype = next(model.parameters()).dtype
    mask = torch.zeros(seen.shape, dtype=dtype, device=device)
    mask = mask.masked_fill(~seen, torch.finfo(dtype).min)
    return {
        "input_ids": _index(forest.token_ids[kept], device)[None],
        "position_ids": _index(forest.position_ids[kept], device)[None],
        "attention_mask": mask[None, None],
        "logits_to_keep": _index(np.searchsorted(kept, rows), device),
        "use_cache": False,
    }


def _index(values: npt.ArrayLike, device: torch.device) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.int64), device=device)
