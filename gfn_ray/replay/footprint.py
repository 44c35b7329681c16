"""What one stored trajectory takes of memory.

Counted by the sizes of the objects that hold it, not read off the process, which says nothing
of it while few are stored. Memory allocators round up, so a process takes some percent more.
"""

from __future__ import annotations

from functools import cache
from sys import getsizeof

import numpy as np

from gfn_ray.trajectory import Trajectory

_POINTER = 8
# z stands in its trajectory and, as 4 bytes a token, among what duplicates are looked for in.
_LOOKUP_BYTES_PER_TOKEN = 4
# An entry of a dictionary: hash, key and value, a byte of its table of places, and the room that a
# dictionary keeps free, a third.
_DICTIONARY_ENTRY = (3 * _POINTER + 1) * 3 // 2


def bytes_of_entry(mean_length: float, bytes_of_columns: int) -> float:
    """Of one entry with z of that many tokens, in a table whose columns take so much a slot."""
    empty, one_token = _record(0), _record(1)
    lookup = getsizeof(b"") + _DICTIONARY_ENTRY + getsizeof(1 << 20)  # and the number of its slot
    fixed = empty + lookup + bytes_of_columns + 2 * _POINTER  # in the table's and its query's list
    return fixed + (one_token - empty + _LOOKUP_BYTES_PER_TOKEN) * mean_length


@cache
def _record(length: int) -> int:
    """A trajectory and what belongs to it alone; `proposal` and `stopped` are shared by all."""
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
