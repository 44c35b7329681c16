"""Trajectories as columns: the only form in which they cross processes and are stored.

The sampler packs its samples into a block of bytes, without log R. The reward actor makes the
scored block, which replay logs unchanged and samples batches from. One block instead of hundreds
of arrays per batch saves milliseconds per Ray call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gfn_ray.storage.serialization import Array, Record, pack, unpack
from gfn_ray.trajectory import Trajectory

_TEXTS = ("query_id", "proposal")
_NUMBERS = {
    "policy_version": np.dtype(np.int64),
    "temperature": np.dtype(np.float64),
    "epsilon": np.dtype(np.float64),
    "stopped": np.dtype(np.bool_),
    "sampler_log_stop": np.dtype(np.float64),
}
_PER_TOKEN = {
    "token_ids": np.dtype(np.int32),
    "tool_mask": np.dtype(np.bool_),
    "sampler_log_pf": np.dtype(np.float32),
}
_TERMINABLE = {"terminable": np.dtype(np.bool_)}
_LOG_REWARD = {"log_reward": np.dtype(np.float32)}


def pack_trajectories(trajectories: Sequence[Trajectory]) -> bytes:
    """Packs trajectories, all scored or all unscored, into one block of bytes."""
    return pack(to_columns(trajectories))


def unpack_trajectories(block: bytes) -> list[Trajectory]:
    """Returns the trajectories of a block. Raises ValueError if the bytes are not a block."""
    return from_columns(unpack(block))


def to_columns(trajectories: Sequence[Trajectory]) -> Record:
    """Converts trajectories to one array per field. Raises ValueError if shapes or types are wrong,
    or if only some are scored."""
    unscored = sum(one.log_reward is None for one in trajectories)
    if unscored not in (0, len(trajectories)):
        raise ValueError(f"{unscored} of {len(trajectories)} trajectories have not been scored yet")
    per_prefix = _TERMINABLE if unscored else _TERMINABLE | _LOG_REWARD
    lengths = [len(one) for one in trajectories]
    columns: Record = {"length": np.array(lengths, dtype=np.int64)}
    for name in _TEXTS:
        columns[name] = [getattr(one, name) for one in trajectories]
    for name, dtype in _NUMBERS.items():
        columns[name] = np.array([getattr(one, name) for one in trajectories], dtype=dtype)
    for extra, kinds in ((0, _PER_TOKEN), (1, per_prefix)):
        for name, dtype in kinds.items():
            arrays = [getattr(one, name) for one in trajectories]
            for array, length in zip(arrays, lengths, strict=True):
                # Another dtype would not survive the round trip.
                if array.dtype != dtype or array.shape != (length + extra,):
                    raise ValueError(
                        f"{name} is {array.dtype} {array.shape} in a trajectory of {length} "
                        f"tokens, expected {dtype} ({length + extra},)"
                    )
            columns[name] = np.concatenate([np.empty(0, dtype=dtype), *arrays])
    return columns


def from_columns(columns: Record) -> list[Trajectory]:
    """Restores the trajectories of to_columns(), each with its own arrays."""
    lengths = columns["length"]
    fields: dict[str, Sequence[Any]] = {name: columns[name] for name in _TEXTS}
    fields |= {name: columns[name].tolist() for name in _NUMBERS}
    fields |= {name: _split(columns[name], lengths) for name in _PER_TOKEN}
    fields |= {name: _split(columns[name], lengths + 1) for name in _TERMINABLE}
    if "log_reward" in columns:
        fields["log_reward"] = _split(columns["log_reward"], lengths + 1)
    if fields.keys() | {"length"} != columns.keys():
        raise ValueError(f"trajectories with the columns {sorted(columns)}")
    fields.setdefault("log_reward", [None] * len(lengths))
    # Positional, which takes half the time of keywords.
    ordered = (fields[name] for name in Trajectory.__dataclass_fields__)
    return [Trajectory(*row) for row in zip(*ordered, strict=True)]


def _split(array: Array, lengths: Array) -> list[Array]:
    """Splits a column; each part has its own memory, freed with its trajectory."""
    ends = np.cumsum(lengths)
    if len(array) != (ends[-1] if len(ends) else 0):
        raise ValueError(f"{len(array)} elements for trajectories of {lengths.tolist()}")
    return [
        array[end - n : end].copy() for n, end in zip(lengths.tolist(), ends.tolist(), strict=True)
    ]
