"""Known good z as trajectories: seeds for replay, and a yardstick for the policy."""

from __future__ import annotations

from gfn_ray.support import Support
from gfn_ray.trajectory import IntArray, Query, Trajectory


def known_trajectory(query_id: str, token_ids: IntArray, support: Support) -> Trajectory:
    """A given z as an unscored record; the support must contain it."""
    return Trajectory(
        query_id=query_id,
        token_ids=token_ids,
        tool_mask=support.tool_mask(token_ids),
        terminable=support.terminable(token_ids),
        policy_version=-1,
        proposal="seed",
        temperature=1.0,
        epsilon=0.0,
        stopped=len(token_ids) < support.max_len,
    )


def reference_trajectories(queries: list[Query], support: Support) -> list[Trajectory]:
    """The known good z of each query that lie inside the support."""
    return [
        known_trajectory(query.query_id, tokens, support)
        for query in queries
        for tokens in query.references
        if support.contains(tokens)
    ]
