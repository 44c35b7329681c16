"""Figures of packing: log q of z that share their prompts, as packed prefix trees and a row each.

`packing, |z| N`: two queries of infilling with eight random z each, of one length: a forward
without gradients by the learner's own way, in `learner.tokens_per_forward` tokens at a time.
`packing, update, |z| N`: an update on eight z (of 512 tokens: four) of one query with a prompt of
some 200 tokens, forward and backward in one pass. Both sides read the same model and differ only in
that one shares a prompt, and what z have in common, and the other pads rows. The shorter z is, the
larger is the share of the prompt, and with it the gain; where a single z fills a forward nothing is
left to share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from bench_infill import PER_QUERY, QUERIES, Bench
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.packing.forward import Ways, read_by, ways_of
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.support import BoundedSupport
from gfn_ray.tasks.demonstrations import demonstration_trajectory
from gfn_ray.trajectory import IntArray
from measure import Figure, seconds, side_by_side

LENGTHS = (16, 128, 512)
BY_PATH = Ways(trees=False, plain_head=True)
PROMPTS = 4  # of infilling, one after another: a prompt of some 200 tokens
AT_ONCE = 3000  # tokens of an update in rows, each with some 1.5 MB of activations


class PackingBench:
    """infill: has the model and its queries. quick: the shortest z only."""

    def __init__(self, rounds: int, quick: bool, infill: Bench) -> None:
        self._rounds = rounds
        self._lengths = LENGTHS[: 1 if quick else None]
        self._infill = infill

    def figures(self) -> dict[str, Callable[[], Figure]]:
        made = {}
        for kind, of in (("packing", self.forward), ("packing, update", self.update)):
            names = {f"{kind}, |z| {length}": length for length in self._lengths}
            made |= {name: partial(of, name, length) for name, length in names.items()}
        return made

    def forward(self, name: str, length: int) -> Figure:
        """Seconds for log q of all z."""
        infill, support = self._infill, self._support(length)
        trainer = PolicyTrainer(infill.trainer.model, infill.config, support)
        groups = _groups([query.prompt_ids for query in infill.queries[:QUERIES]], support)
        return self._compared(name, trainer, lambda: trainer.score(groups))

    def update(self, name: str, length: int) -> Figure:
        """Seconds for an update on all z."""
        infill, support = self._infill, self._support(length)
        learner = infill.config.learner.model_copy(update={"tokens_per_forward": AT_ONCE})
        config = infill.config.model_copy(update={"learner": learner})
        trainer = PolicyTrainer(infill.trainer.model, config, support)
        prompt = np.concatenate([query.prompt_ids for query in infill.queries[:PROMPTS]])
        groups = _groups([prompt], support, min(PER_QUERY, AT_ONCE // (len(prompt) + length)))
        return self._compared(name, trainer, lambda: trainer.step(groups))

    def _support(self, length: int) -> BoundedSupport:
        """z of one length."""
        support = self._infill.support
        assert isinstance(support, BoundedSupport)
        return replace(support, min_len=length, max_len=length)

    def _compared(self, name: str, trainer: PolicyTrainer, work: Callable[[], object]) -> Figure:
        usual = ways_of(trainer.model)

        def read(ways: Ways) -> Callable[[], float]:
            def run() -> None:
                read_by(trainer.model, ways, in_blocks=False)
                work()

            return seconds(run)

        try:
            return side_by_side(name, read(usual), read(BY_PATH), rounds=self._rounds, unit="s")
        finally:
            read_by(trainer.model, usual, in_blocks=False)


def _groups(
    prompts: Sequence[IntArray], support: BoundedSupport, each: int = PER_QUERY
) -> list[TrajectoryGroup]:
    """Random z after each prompt, with random rewards."""
    legal = np.flatnonzero(support.content & support.opening & support.enders)
    rng, length = np.random.default_rng(0), support.max_len
    made = []
    for prompt in prompts:
        texts = [rng.choice(legal, length).astype(np.int32) for _ in range(each)]
        found = [demonstration_trajectory(str(len(made)), z, support) for z in texts]
        scored = [z.scored(rng.normal(-100, 5, length + 1)) for z in found]
        made.append(TrajectoryGroup(prompt, scored))
    return made
