"""Prioritized replay of scored trajectories: plain classes, no Ray, no torch.

Decides what is kept, what is evicted and what is sampled. The Ray actor around it and the
learner's losses live elsewhere.
"""

from gfn_ray.replay.buffer import ReplayBuffer
from gfn_ray.replay.outcomes import AddReport, ReplayBatch
from gfn_ray.replay.rate_limiter import RateLimiter
from gfn_ray.replay.sum_tree import SumTree

__all__ = ["AddReport", "RateLimiter", "ReplayBatch", "ReplayBuffer", "SumTree"]
