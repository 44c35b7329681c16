"""Figures of the machine's limit: what an infill update takes, against what its arithmetic must.

Each round measures the machine first: square matrix products in float32 and bfloat16, products of
the model's own shapes, and how fast memory is read. Then it times one update of the settings of
bench_infill, stage by stage, and counts the operations and bytes that these very trajectories
need (flops.py). The floor of a pass is the longer of its operations at the better float32 rate and
its bytes at the reading rate; the floor of an update is the sum over its passes: each token of z in
turn, the reward once and the learner there and back, with equal prefixes passed once.

The ratio of "roofline" is update / floor; of a stage, the share of the float32 rate that it keeps
up; of the other matrix products, their rate / that rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch.nn.functional import linear

from bench_infill import PER_QUERY, QUERIES, Bench
from flops import Architecture, Work, backward, bytes_read, decoded, forward, shared
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.trajectory import Query, Trajectory
from measure import Figure, figure, seconds

SQUARE = 2048
STRIP = 32  # rows
LONG_S = 0.3  # for it; processors without bfloat16 need that, and others a hundredth
OWN_TOKENS = 256  # about as many as a pass of the learner has
READ_BYTES = 1 << 29  # far more than any cache holds
TRIES = 3  # of which the fastest counts: a limit is not what others left of it
FLOAT32 = 4  # bytes
STAGES = ("sampler", "reward", "learner")


@dataclass(frozen=True)
class Round:
    """rates: operations a second by kind of matrix product. taken, operations, floors: seconds,
    operations and least seconds by stage. step: seconds of the whole update."""

    rates: dict[str, float]
    taken: dict[str, float]
    operations: dict[str, int]
    floors: dict[str, float]
    step: float


class RooflineBench:
    """infill: has the parts of an update. All figures are of the same rounds."""

    def __init__(self, rounds: int, infill: Bench) -> None:
        self._rounds = rounds
        self._infill = infill

    def figures(self) -> dict[str, Callable[[], Figure]]:
        return {
            "roofline": self.step,
            **{f"roofline, {stage}": partial(self.stage, stage) for stage in STAGES},
            **{f"roofline, {kind}": partial(self.product, kind) for kind in list(PRODUCTS)[1:]},
        }

    def step(self) -> Figure:
        """Seconds of an update, and of its floor."""
        ours = [one.step for one in self._measured]
        floors = [sum(one.floors.values()) for one in self._measured]
        ratios = [a / b for a, b in zip(ours, floors, strict=True)]
        return figure("roofline", ours, floors, ratios, "s")

    def stage(self, stage: str) -> Figure:
        """Operations a second of a stage, and of a square product."""
        return self._share(
            stage, [one.operations[stage] / one.taken[stage] for one in self._measured]
        )

    def product(self, kind: str) -> Figure:
        return self._share(kind, [one.rates[kind] for one in self._measured])

    def _share(self, what: str, rates: Sequence[float]) -> Figure:
        peaks = [one.rates[PEAK] for one in self._measured]
        ratios = [a / b for a, b in zip(rates, peaks, strict=True)]
        giga = [[rate / 1e9 for rate in each] for each in (rates, peaks)]
        return figure(f"roofline, {what}", *giga, ratios, "GFLOP/s")

    @cached_property
    def _measured(self) -> list[Round]:
        self._round()  # models load, and caches fill
        return [self._round() for _ in range(self._rounds)]

    def _round(self) -> Round:
        infill = self._infill
        rank = infill.config.policy.lora_rank
        policy = Architecture.of(infill.frozen.config, rank)
        frozen = Architecture.of(infill.frozen.config, 0)
        rates = {kind: measured(policy) for kind, measured in PRODUCTS.items()}
        reading, peak = _reading_rate(), max(rates[PEAK], rates[OWN])
        queries = infill.queries[:QUERIES]
        groups: list[TrajectoryGroup] = []
        drawn: list[Trajectory] = []
        scored: list[Trajectory] = []

        def sample() -> None:
            drawn.extend(z for group in infill.sampled() for z in group)

        def score() -> None:
            scored.extend(infill.scorer.score(list(zip(of_each, drawn, strict=True))))

        def learn() -> None:
            infill.trainer.step(groups)

        of_each = [query for query in queries for _ in range(PER_QUERY)]
        taken = {"sampler": seconds(sample)(), "reward": seconds(score)()}
        for number, query in enumerate(queries):
            mine = scored[number * PER_QUERY : (number + 1) * PER_QUERY]
            groups.append(TrajectoryGroup(query.prompt_ids, mine))
        taken["learner"] = seconds(learn)()
        swap = seconds(lambda: infill.engine.load(infill.trainer.publish()))()

        longest = infill.support.max_len
        sampling = decoded(
            [(len(g.prompt_ids), list(map(len, g.trajectories))) for g in groups], longest
        )
        scoring = scored_once(of_each, drawn)
        learning = learned_once(groups, longest)
        passes = {
            "sampler": [(forward(policy, w), bytes_read(policy, w, FLOAT32)) for w in sampling],
            "reward": [(forward(frozen, scoring), bytes_read(frozen, scoring, FLOAT32))],
            "learner": [
                (count(policy, learning), bytes_read(policy, learning, FLOAT32))
                for count in (forward, backward)
            ],
        }
        return Round(
            rates,
            taken,
            {stage: sum(operations for operations, _ in each) for stage, each in passes.items()},
            {stage: floor(each, peak, reading) for stage, each in passes.items()},
            sum(taken.values()) + swap,
        )


def floor(passes: Sequence[tuple[int, int]], rate: float, reading: float) -> float:
    """Least seconds of passes with so many operations and bytes, at these rates a second."""
    return sum(max(operations / rate, size / reading) for operations, size in passes)


def scored_once(queries: Sequence[Query], drawn: Sequence[Trajectory]) -> Work:
    """What a reward has to pass: every prefix that may stop, with the answer below it. The last
    token predicts nothing."""
    return shared(
        (
            [*query.context_ids.tolist(), *z.token_ids[:t].tolist(), *query.answer_ids.tolist()][
                :-1
            ],
            len(query.context_ids),
        )
        for query, z in zip(queries, drawn, strict=True)
        for t in z.terminable.nonzero()[0]
    )


def learned_once(groups: Sequence[TrajectoryGroup], longest: int) -> Work:
    """What the learner has to pass: every z below its prompt. After the last of `longest` tokens
    nothing is left to choose."""
    return shared(
        ([*group.prompt_ids.tolist(), *z.token_ids[: longest - 1].tolist()], len(group.prompt_ids))
        for group in groups
        for z in group.trajectories
    )


def _fastest(operations: int, work: Callable[[], object]) -> float:
    return operations / min(seconds(work)() for _ in range(TRIES))


def _square(_: Architecture, dtype: torch.dtype) -> float:
    """Where a strip of it shows that all of it would take a minute, of the strip."""
    x, w = (torch.ones(SQUARE, SQUARE, dtype=dtype) for _ in range(2))
    strip = x[:STRIP]
    if seconds(lambda: linear(strip, w))() > LONG_S:
        return _fastest(2 * STRIP * SQUARE**2, lambda: linear(strip, w))
    return _fastest(2 * SQUARE**3, lambda: linear(x, w))


def _own(model: Architecture, dtype: torch.dtype) -> float:
    """A layer's products, on a pass of the learner."""
    factors = [
        (torch.ones(OWN_TOKENS, inputs, dtype=dtype), torch.ones(outputs, inputs, dtype=dtype))
        for inputs, outputs in model.linears
    ]
    operations = 2 * OWN_TOKENS * sum(a * b for a, b in model.linears)
    return _fastest(operations, lambda: [linear(x, w) for x, w in factors])


def _reading_rate() -> float:
    """Bytes a second."""
    numbers = torch.ones(READ_BYTES // FLOAT32)
    return _fastest(READ_BYTES, numbers.sum)


PEAK = "float32 product"
OWN = "the model's products"
PRODUCTS: dict[str, Callable[[Architecture], float]] = {
    PEAK: partial(_square, dtype=torch.float32),
    "bfloat16 product": partial(_square, dtype=torch.bfloat16),
    OWN: partial(_own, dtype=torch.float32),
    "the model's products, bfloat16": partial(_own, dtype=torch.bfloat16),
}
