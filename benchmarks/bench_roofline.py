"""Figures of the machine's limit: what an infill update takes, against what its arithmetic must.

Each round measures the machine first: square matrix products in float32 and bfloat16, products of
the model's own shapes, and how fast memory is read. Then it times one update of the settings of
bench_infill, stage by stage, and counts the operations and bytes that these very trajectories
need (flops.py). The floor of a pass is the longer of its operations at the better rate in the
models' precision and its bytes at the reading rate; the floor of a stage is the sum over its
passes: each token of z in turn, the reward once and the learner there and back, with equal prefixes
passed once. The floor of an update is that of its stages.

There are updates in float32, and in bfloat16 where the processor has matrix units: without them its
products are several times slower, and so would be the figures. The ratio of an update and of a
stage is time / floor; of the other matrix products, their rate / that of float32.
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
WIDTHS = {"float32": 4, "bfloat16": 2}  # bytes of a number
STAGES = ("sampler", "reward", "learner")


@dataclass(frozen=True)
class Round:
    """rates: operations a second by kind of matrix product. taken, floors: seconds and least
    seconds by stage. step: seconds of the whole update."""

    rates: dict[str, float]
    taken: dict[str, float]
    floors: dict[str, float]
    step: float


class RooflineBench:
    """infill: has the parts of an update, in its precision. All figures are of the same rounds."""

    def __init__(self, rounds: int, infill: Bench) -> None:
        self._rounds = rounds
        self._infill = infill
        self._dtype = infill.config.learner.precision

    def figures(self) -> dict[str, Callable[[], Figure]]:
        """The products of both precisions are among those of float32."""
        name = f"roofline, {self._dtype}"
        products = list(PRODUCTS)[1:] if self._dtype == "float32" else []
        return {
            name: partial(self.step, name),
            **{f"{name}, {stage}": partial(self.stage, name, stage) for stage in STAGES},
            **{f"roofline, {kind}": partial(self.product, kind) for kind in products},
        }

    def step(self, name: str) -> Figure:
        """Seconds of an update, and of its floor."""
        floors = [sum(one.floors.values()) for one in self._measured]
        return _above(name, [one.step for one in self._measured], floors)

    def stage(self, name: str, stage: str) -> Figure:
        """Seconds of a stage, and of its floor."""
        floors = [one.floors[stage] for one in self._measured]
        return _above(f"{name}, {stage}", [one.taken[stage] for one in self._measured], floors)

    def product(self, kind: str) -> Figure:
        """Operations a second of a kind of product, and of a square one in float32."""
        rates = [one.rates[kind] for one in self._measured]
        peaks = [one.rates[PEAK] for one in self._measured]
        ratios = [a / b for a, b in zip(rates, peaks, strict=True)]
        giga = [[rate / 1e9 for rate in each] for each in (rates, peaks)]
        return figure(f"roofline, {kind}", *giga, ratios, "GFLOP/s")

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
        reading, peak = _reading_rate(), max(rates[kind] for kind in KINDS[self._dtype])
        width = WIDTHS[self._dtype]
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
            "sampler": [(forward(policy, w), bytes_read(policy, w, width)) for w in sampling],
            "reward": [(forward(frozen, scoring), bytes_read(frozen, scoring, width))],
            "learner": [
                (count(policy, learning), bytes_read(policy, learning, width))
                for count in (forward, backward)
            ],
        }
        return Round(
            rates,
            taken,
            {stage: floor(each, peak, reading) for stage, each in passes.items()},
            sum(taken.values()) + swap,
        )


def _above(name: str, taken: Sequence[float], floors: Sequence[float]) -> Figure:
    ratios = [a / b for a, b in zip(taken, floors, strict=True)]
    return figure(name, taken, floors, ratios, "s")


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
    numbers = torch.ones(READ_BYTES // WIDTHS["float32"])
    return _fastest(READ_BYTES, numbers.sum)


PEAK = "float32 product"
OWN = "the model's products"
KINDS = {
    "float32": (PEAK, OWN),
    "bfloat16": ("bfloat16 product", "the model's products, bfloat16"),
}
PRODUCTS: dict[str, Callable[[Architecture], float]] = {
    PEAK: partial(_square, dtype=torch.float32),
    "bfloat16 product": partial(_square, dtype=torch.bfloat16),
    OWN: partial(_own, dtype=torch.float32),
    "the model's products, bfloat16": partial(_own, dtype=torch.bfloat16),
}
