"""Logits of packed trees for models that cannot read them: each path as a row of a plain batch.

A tree's attention pattern is a four-dimensional mask and position ids that are not 0, 1, 2, ...;
models with ALiBi or a recurrent state reject them or, worse, silently misread them. `forward.py`
detects such models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gfn_ray.packing.prefix_tree import ROOT, PrefixTree

ROWS = 16  # paths per forward pass


def logits_unpacked(
    model: Any, tree: PrefixTree, rows: npt.NDArray[np.int64], device: torch.device
) -> Tensor:
    """Returns next-token logits [R, V] after the given nodes, at the model's own precision."""
    parents, token_ids = tree.parents, tree.token_ids
    inner: set[int] = set()
    for node in rows.tolist():
        above = int(parents[node])
        while above != ROOT and above not in inner:
            inner.add(above)
            above = int(parents[above])
    place: dict[int, tuple[int, int]] = {}  # node -> path, position on it
    paths: list[list[int]] = []
    for end in (int(node) for node in rows if int(node) not in inner):
        path = []
        node = end
        while node != ROOT:
            path.append(node)
            node = int(parents[node])
        path.reverse()
        place.update({one: (len(paths), at) for at, one in enumerate(path)})
        paths.append(path)
    numbers, places = np.array([place[node] for node in rows.tolist()]).T
    asked: list[npt.NDArray[np.int64]] = []
    found: list[Tensor] = []
    for start in range(0, len(paths), ROWS):
        some = paths[start : start + ROWS]
        width = max(map(len, some))
        ids = torch.zeros(len(some), width, dtype=torch.int64)
        for row, path in enumerate(some):
            ids[row, : len(path)] = torch.from_numpy(token_ids[path])
        # Padding is on the right, where no causal model sees it.
        logits = model(input_ids=ids.to(device), use_cache=False).logits
        here = np.flatnonzero((start <= numbers) & (numbers < start + len(some)))
        asked.append(here)
        # At once: the gradient of each single row would be as large as all logits.
        found.append(logits[numbers[here] - start, places[here]])
    return torch.cat(found)[np.argsort(np.concatenate(asked))]
