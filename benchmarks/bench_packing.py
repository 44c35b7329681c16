"""Figures of packing: log q of z that share their prompts, as packed prefix trees and a row each.

Two queries of infilling with eight random z each, of one length: a forward without gradients by the
learner's own way, in `learner.tokens_per_forward` tokens at a time. Both sides read the same model
and differ only in that one shares a prompt, and what z have in common, and the other pads rows. The
shorter z is, the larger is the share of the prompt, and with it the gain; where a single z fills a
forward nothing is left to share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from bench_infill import PER_QUERY, QUERIES, Bench
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.packing.forward import Ways, read_by, ways_of
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.tasks.demonstrations import demonstration_trajectory
from measure import Figure, seconds, side_by_side

LENGTHS = (16, 128, 512)
BY_PATH = Ways(trees=False, plain_head=True)


class PackingBench:
    """infill: has the model and its queries. quick: the shortest z only."""

    def __init__(self, rounds: int, quick: bool, infill: Bench) -> None:
        self._rounds = rounds
        self._lengths = LENGTHS[: 1 if quick else None]
        self._infill = infill

    def figures(self) -> dict[str, Callable[[], Figure]]:
        names = {f"packing, |z| {length}": length for length in self._lengths}
        return {name: partial(self.forward, name, length) for name, length in names.items()}

    def forward(self, name: str, length: int) -> Figure:
        """Seconds for log q of all z."""
        infill = self._infill
        support = replace(infill.support, min_len=length, max_len=length)
        trainer = PolicyTrainer(infill.trainer.model, infill.config, support)
        legal = np.flatnonzero(support.content & support.opening & support.enders)
        rng = np.random.default_rng(0)
        groups = [
            TrajectoryGroup(
                query.prompt_ids,
                [
                    demonstration_trajectory(
                        query.query_id, rng.choice(legal, length).astype(np.int32), support
                    )
                    for _ in range(PER_QUERY)
                ],
            )
            for query in infill.queries[:QUERIES]
        ]
        usual = ways_of(trainer.model)

        def read(ways: Ways) -> Callable[[], float]:
            def run() -> None:
                read_by(trainer.model, ways, in_blocks=False)
                trainer.score(groups)

            return seconds(run)

        try:
            return side_by_side(name, read(usual), read(BY_PATH), rounds=self._rounds, unit="s")
        finally:
            read_by(trainer.model, usual, in_blocks=False)
