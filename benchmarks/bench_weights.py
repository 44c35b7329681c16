"""Figures of the weights' way: from a published adapter to samplers that have it.

Real: Ray and its object store, the learner's copy of its tensors (as `read_adapter` makes it), one
reference handed to every sampler's actor, and the copies that `AdapterSwap` makes on receipt; of
"weights, swap", the engine and the swap itself. Not real: the tensors, which are random, and, but
for that figure, the samplers, which have no engine: eight would not fit into a small machine.

The plain way: the learner writes the files that PEFT and vLLM read, and every sampler reads them
from disk, which here means from the system's cache of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import ray

from bench_infill import Bench
from gfn_ray.policy.adapter import Adapter
from gfn_ray.runtime.resources.cluster import connected
from measure import Figure, seconds, side_by_side
from weight_actors import Learner, Reader, Shape

SAMPLERS = (1, 2, 4, 8)
# For the newest version and the one before, as long as a sampler may still be reading that.
STORE_BYTES = 2 << 30

SHAPES = {
    "135M r16": Shape(layers=30, hidden=576, narrow=192, inner=1536, rank=16),  # 20 MB
    "7B r16": Shape(layers=32, hidden=4096, narrow=4096, inner=11008, rank=16),  # 160 MB
    "7B r64": Shape(layers=32, hidden=4096, narrow=4096, inner=11008, rank=64),  # 640 MB
}


class WeightsBench:
    """infill: has the engine of "weights, swap"."""

    def __init__(self, rounds: int, quick: bool, infill: Bench) -> None:
        self._rounds = rounds
        self._infill = infill
        shapes = list(SHAPES)[:1] if quick else list(SHAPES)
        self._cases = [(shape, count) for shape in shapes for count in SAMPLERS]

    def figures(self) -> dict[str, Callable[[], Figure]]:
        found: dict[str, Callable[[], Figure]] = {"weights, swap": self.swap}
        for shape, count in self._cases:
            name = f"weights, {shape}, {count} sampler{'s' if count > 1 else ''}"
            found[name] = partial(self.publication, name, SHAPES[shape], count)
        return found

    def swap(self) -> Figure:
        """Seconds until a handed-over adapter of 135M r16 is live in an engine: in memory, against
        files and vLLM's own loading of them."""
        engine, newest = self._infill.engine, self._infill.trainer.publish()
        version = newest.version

        def with_new_version(load: Callable[[Adapter], object]) -> float:
            nonlocal version
            version += 1
            adapter = replace(newest, version=version)
            return seconds(lambda: load(adapter))()

        found = side_by_side(
            "weights, swap",
            partial(with_new_version, engine.load),
            partial(with_new_version, engine.swap.load_from_files),
            rounds=self._rounds,
            unit="s",
        )
        engine.load(replace(newest, version=version + 1))  # whoever samples next
        return found

    def publication(self, name: str, shape: Shape, count: int) -> Figure:
        """Seconds from the learner's call to publish until every sampler has its own tensors."""
        with connected(STORE_BYTES), tempfile.TemporaryDirectory() as directory:
            learner = ray.remote(Learner).options(num_cpus=0).remote(shape)
            readers = [ray.remote(Reader).options(num_cpus=0).remote() for _ in range(count)]

            def through_ray() -> None:
                adapter = learner.publish.remote()
                self._all_have(shape, [reader.receive.remote(adapter) for reader in readers])

            def through_files() -> None:
                ray.get(learner.write.remote(directory))
                self._all_have(shape, [reader.read.remote(directory) for reader in readers])

            return side_by_side(
                name,
                seconds(through_ray),
                seconds(through_files),
                rounds=self._rounds,
                unit="s",
            )

    @staticmethod
    def _all_have(shape: Shape, received: list[Any]) -> None:
        if set(ray.get(received)) != {shape.parameters()}:
            raise RuntimeError("a sampler got another adapter than was published")
