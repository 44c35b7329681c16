"""No two streams of random numbers coincide, and there are no others."""

from __future__ import annotations

import ast
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

import gfn_ray
from gfn_ray.seeds import Seed, Stream, generator, number, seed_of

# The last is more than numpy takes as one word.
SEEDS = (0, 1, 2, 3, 2**32 - 1, 2**32, 2**40 + 7)
AT = ((), (0,), (1,), (2,), (0, 0), (0, 1), (1, 0), (2**32 - 1,), (0, 0, 0))

# Seeds of their own, that no stream of a run is drawn by.
OF_THEIR_OWN = {
    "tasks/arithmetic/data.py": "task.data_seed names the problems",
    "tasks/subjectivity/data.py": "task.draw names the labelled sentences",
    "evaluation/compare.py": "a comparison is a program by itself, with one stream",
    "models/attention.py": "queries and keys to try attention on, the same in every run",
    "packing/forward.py": "tokens to try a forward out on, the same in every run",
}


def every_seed() -> list[Seed]:
    return [seed_of(stream, seed, *at) for stream, seed, at in product(Stream, SEEDS, AT)]


def beginning(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(rng.integers(2**63, size=4).tolist())


def test_no_two_streams_coincide() -> None:
    drawn = {beginning(generator(seed)): seed for seed in every_seed()}
    assert len(drawn) == len(every_seed())
    numbers = {number(seed) for seed in every_seed()}
    assert len(numbers) == len(every_seed())


def test_no_stream_coincides_with_a_seed_that_is_no_streams() -> None:
    drawn = {beginning(generator(seed)) for seed in every_seed()}
    # One seed, and as data names its examples: the seed, part of the data, use, operands.
    uses = product(SEEDS, (0, 1, 2), (0, 1), ([3], [4], [3, 4], [3, 4, 5]))
    plain: list[int | list[int]] = [*SEEDS, *([s, part, use, *n] for s, part, use, n in uses)]
    assert not drawn & {beginning(np.random.default_rng(seed)) for seed in plain}


def test_a_stream_is_the_same_wherever_it_is_made() -> None:
    seed = seed_of(Stream.TRAINING_CALL, 7, 3)
    assert seed == [1, 7, 3] and all(type(part) is int for part in seed)
    assert beginning(generator(seed)) == beginning(generator(list(seed)))


@pytest.mark.parametrize("stream", Stream)
def test_torch_takes_the_number_of_every_stream(stream: Stream) -> None:
    first, second = torch.Generator(), torch.Generator()
    first.manual_seed(number(seed_of(stream, 0)))
    second.manual_seed(number(seed_of(stream, 1)))
    assert first.initial_seed() != second.initial_seed()


def test_every_random_number_of_the_package_comes_from_a_stream() -> None:
    root = Path(gfn_ray.__file__).parent
    found = set()
    for file in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name, arguments = ast.unparse(node.func), [ast.unparse(arg) for arg in node.args]
            of_torch = name.endswith("manual_seed")
            made_here = "default_rng" in name or "SeedSequence" in name or "RandomState" in name
            if made_here or (of_torch and not arguments[0].startswith("number(")):
                found.add(str(file.relative_to(root)))
    assert found == {"seeds.py", *OF_THEIR_OWN}
