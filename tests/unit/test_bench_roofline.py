"""The floor of an update counts what must be done, and that once."""

from dataclasses import replace

import numpy as np
import torch

from bench_roofline import floor, learned_once, scored_once
from flops import Work
from gfn_ray.packing.forward import supports_trees
from gfn_ray.policy.log_q import TrajectoryGroup, log_q
from testing.makers import make_trajectory, random_query, random_trajectories


def test_each_pass_takes_its_operations_or_its_bytes_whichever_is_longer():
    assert floor([(100, 10), (10, 100)], rate=10.0, reading=5.0) == 10.0 + 20.0


def test_the_learner_passes_no_fewer_tokens_than_the_floor_counts(base, support):
    rng = np.random.default_rng(2)
    queries = [random_query(rng, name) for name in "ab"]
    groups = [
        TrajectoryGroup(q.prompt_ids, random_trajectories(rng, support, q.query_id, 6))
        for q in queries
    ]
    assert supports_trees(base)  # tried out now, not while tokens are counted
    passed = []
    base.model.register_forward_pre_hook(
        lambda _, args, kwargs: passed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    log_q(base, groups, support, torch.from_numpy(support.masks))
    apart = sum(group.packed_tokens for group in groups)
    assert learned_once(groups, support.max_len).tokens <= sum(passed) <= apart


def test_the_learner_passes_a_prompt_once_and_not_the_last_token_of_a_longest_z(support):
    query = random_query(np.random.default_rng(3), "q", prompt_length=5)
    longest = np.arange(12, 12 + 6, dtype=np.int32)
    texts = [longest, np.append(longest[:5], 30).astype(np.int32), longest[:2]]
    group = TrajectoryGroup(
        query.prompt_ids,
        [replace(make_trajectory(support, "q", z[:2]), token_ids=z) for z in texts],
    )
    assert learned_once([group], longest=6) == Work(5 + 5, 55, 1 + 5)


def test_the_reward_passes_the_answer_once_below_every_prefix_that_may_stop(support):
    query = random_query(np.random.default_rng(3), "q")  # 7 tokens of context, 4 of answer
    z = make_trajectory(support, "q", np.array([12, 15, 18], dtype=np.int32))
    stops = int(z.terminable.sum())
    counted = scored_once([query, query], [z, z])
    assert counted.tokens == 7 + 3 + stops * 3
    assert counted == scored_once([query], [z])
    assert counted.rows == 1 + 3 + stops * 3
