"""Log-probabilities of a causal LM on a packed forest.

Owns the attention mask, the reading of logits where a log-probability is wanted and
nowhere else, and the renormalisation under a support. Source of the idea: tree
attention as in speculative decoding (Miao et al. 2023, SpecInfer), here with gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gfn_ray.errors import out_of_memory
from gfn_ray.packing.by_path import logits_by_path
from gfn_ray.packing.forest import ROOT, TokenForest

# Most nats between the two ways on the same weights: bfloat16 strays by less, a token that is seen
# or not seen by mistake by more.
AGREEMENT = 0.1

_READS_FORESTS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


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
    row_index = {int(node): index for index, node in enumerate(rows)}
    device = next(model.parameters()).device

    logits = _logits_at(model, forest, rows, device)  # [R, V]
    if legal is not None:
        kinds = torch.tensor([legal.row_of_node[int(node)] for node in rows], device=device)
        # The lowest finite float, not -inf: gradients of an all-masked entry stay finite.
        logits = logits.masked_fill(~legal.masks[kinds], torch.finfo(logits.dtype).min)
    normaliser = torch.logsumexp(logits, dim=-1)  # [R]

    # One gather of logits minus the normaliser: a full log-softmax would double the memory.
    picked_rows = _index([row_index[int(parent)] for parent in parents[wanted]], device)
    tokens = _index(forest.token_ids[wanted], device)
    picked = logits[picked_rows, tokens] - normaliser[picked_rows]
    log_prob = logits.new_zeros(len(forest)).index_put((_index(wanted, device),), picked)

    log_stop = logits.new_zeros(len(forest))
    if len(stops):
        if legal is None:
            raise ValueError("stop_nodes needs the support that says which tokens stop")
        stop_rows = _index([row_index[int(node)] for node in stops], device)
        stop_logits = logits[stop_rows][:, legal.stop_ids]
        values = torch.logsumexp(stop_logits, dim=-1) - normaliser[stop_rows]
        log_stop = log_stop.index_put((_index(stops, device),), values)
    return NodeLogProbs(log_prob, log_stop)


@torch.no_grad()
def reads_forests(model: Any) -> bool:
    """Whether the model takes a tree's mask and positions, and heeds them: tried out once, on a
    small forest, against one forward a path."""
    if model not in _READS_FORESTS:
        forest = TokenForest()
        stem = forest.add_tree([1, 2, 3])
        for branch in ([4, 5, 6, 7], [4, 6, 5], [5, 4]):
            forest.add_path(branch, stem)
        rows = np.arange(len(forest))
        device = next(model.parameters()).device
        try:
            packed = _packed_logits(model, forest, rows, device).float().log_softmax(-1)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            if out_of_memory(error):
                raise  # says nothing of the model, and would be remembered as if it did
            _READS_FORESTS[model] = False  # by what it says of the mask or of an argument
        else:
            alone = logits_by_path(model, forest, rows, device).float().log_softmax(-1)
            _READS_FORESTS[model] = bool((packed - alone).abs().max() < AGREEMENT)
    return _READS_FORESTS[model]


def _logits_at(
    model: Any, forest: TokenForest, rows: npt.NDArray[np.int64], device: torch.device
) -> Tensor:
    """Next-token logits [R, V] after the given nodes, at least float32."""
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    whole = window is None or int(forest.position_ids.max()) < window
    read = _packed_logits if whole and reads_forests(model) else logits_by_path
    logits = read(model, forest, rows, device)
    return logits if logits.dtype == torch.float64 else logits.float()


def _packed_logits(
    model: Any, forest: TokenForest, rows: npt.NDArray[np.int64], device: torch.device
) -> Tensor:
    seen = torch.from_numpy(forest.ancestors()).to(device)
    dtype = next(model.parameters()).dtype
    mask = torch.zeros(seen.shape, dtype=dtype, device=device)
    mask = mask.masked_fill(~seen, torch.finfo(dtype).min)
    output = model(
        input_ids=_index(forest.token_ids, device)[None],
        position_ids=_index(forest.position_ids, device)[None],
        attention_mask=mask[None, None],
        logits_to_keep=_index(rows, device),
        use_cache=False,
    )
    logits: Tensor = output.logits[0]
    return logits


def _index(values: npt.ArrayLike, device: torch.device) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.int64), device=device)
