"""Trajectories by columns: the one form in which they cross processes and are written down.

The sampler makes a block of bytes of all that it sampled, without log R. The reward actor makes the
scored block, which replay takes, writes down as it is, and hands out a batch at a time. Ray takes
milliseconds to hand over the hundreds of arrays of a batch one by one.
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
    """Trajectories as one block of bytes: all of them scored, or none."""
    return pack(to_columns(trajectories))


def unpack_trajectories(block: bytes) -> list[Trajectory]:
    """The trajectories of a block. Raises ValueError where these bytes are none."""
    return from_columns(unpack(block))


def to_columns(trajectories: Sequence[Trajectory]) -> Record:
    """Trajectories, an array a field. Raises ValueError where shapes or types are wrong, or where
    some are scored and some are not."""
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
                # Another type is refused, too, for it would not come back as it was.
                if array.dtype != dtype or array.shape != (length + extra,):
                    raise ValueError(
                        f"{name} is {array.dtype} {array.shape} in a trajectory of {length} "
                        f"tokens, expected {dtype} ({length + extra},)"
                    )
            columns[name] = np.concatenate([np.empty(0, dtype=dtype), *arrays])
    return columns


def from_columns(columns: Record) -> list[Trajectory]:
    """The trajectories of to_columns(), with arrays of their own."""
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
    # By place, which takes half the time that names do.
    ordered = (fields[name] for name in Trajectory.__dataclass_fields__)
    return [Trajectory(*row) for row in zip(*ordered, strict=True)]


def _split(array: Array, lengths: Array) -> list[Array]:
    """The parts of a column, each with memory of its own, to go when its trajectory goes."""
    ends = np.cumsum(lengths)
    if len(array) != (ends[-1] if len(ends) else 0):
        raise ValueError(f"{len(array)} elements for trajectories of {lengths.tolist()}")
    return [
        array[end - n : end].copy() for n, end in zip(lengths.tolist(), ends.tolist(), strict=True)
    ]
