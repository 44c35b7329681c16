"""What a task with right answers adds to a run by STaR: who judges a z, and hints.

A hint is the answer of a training query, shown to the policy before it writes z. It is part of the
prompt of the sampler alone; the learner reads the query's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gfn_ray.config.star import STaRConfig
from gfn_ray.trajectory import Query


@dataclass(frozen=True)
class StarPlan:
    """is_right: whether the text of a z leads to its query's answer. hinted: training queries by
    id, with hints in their prompts; empty without rationalisation."""

    star: STaRConfig
    is_right: Callable[[Query, str], bool]
    hinted: Mapping[str, Query] = field(default_factory=dict)
