"""Estimates the memory of one stored trajectory.

Adds up the sizes of the objects that hold it; the memory of the process says nothing while few are
stored. Allocators round up, so a process uses some percent more.
"""

from __future__ import annotations

from functools import cache
from sys import getsizeof

import numpy as np

from gfn_ray.trajectory import Trajectory

_POINTER = 8
# z is stored in its trajectory and again, as 4 bytes per token, in the duplicate lookup.
_LOOKUP_BYTES_PER_TOKEN = 4
# A dictionary entry: hash, key and value, a byte of its index table, and the third of its space
# that a dictionary keeps free.
_DICTIONARY_ENTRY = (3 * _POINTER + 1) * 3 // 2


def bytes_of_entry(mean_length: float, bytes_of_columns: int) -> float:
    """Bytes of one entry with z of `mean_length` tokens. bytes_of_columns: per slot."""
    empty, one_token = _record(0), _record(1)
    lookup = getsizeof(b"") + _DICTIONARY_ENTRY + getsizeof(1 << 20)  # with the slot number
    fixed = empty + lookup + bytes_of_columns + 2 * _POINTER  # in the lists of table and query
    return fixed + (one_token - empty + _LOOKUP_BYTES_PER_TOKEN) * mean_length


@cache
def _record(length: int) -> int:
    """Bytes of a trajectory and its own objects; `proposal` and `stopped` are shared."""
    one = Trajectory(
        query_id="query-000000",
        token_ids=np.zeros(length, dtype=np.int32),
        tool_mask=np.zeros(length, dtype=np.bool_),
        terminable=np.zeros(length + 1, dtype=np.bool_),
        policy_version=1000,
        proposal="policy",
        temperature=1.0,
        epsilon=0.0,
        stopped=True,
        sampler_log_pf=np.zeros(length, dtype=np.float32),
        sampler_log_stop=0.0,
        log_reward=np.zeros(length + 1, dtype=np.float32),
    )
    names = list(one.__dataclass_fields__)
    own = [getattr(one, name) for name in names if name not in ("proposal", "stopped")]
    return getsizeof(one) + _POINTER * len(names) + sum(map(getsizeof, own))
