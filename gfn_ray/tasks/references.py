"""Known good z as trajectories: seeds for replay, and a yardstick for the policy."""

from __future__ import annotations

import numpy as np

from gfn_ray.tasks.task import TaskData
from gfn_ray.trajectory import Query, Trajectory


def reference_trajectories(data: TaskData, queries: list[Query]) -> list[Trajectory]:
    """The known good z of each query that has one inside the support, as unscored records."""
    return [
        Trajectory(
            query_id=query.query_id,
            token_ids=query.reference_ids,
            tool_mask=np.zeros(len(query.reference_ids), dtype=np.bool_),
            terminable=data.support.terminable(query.reference_ids),
            policy_version=-1,
            proposal="seed",
            temperature=1.0,
            epsilon=0.0,
            stopped=len(query.reference_ids) < data.support.max_len,
        )
        for query in queries
        if data.support.contains(query.reference_ids)
    ]
