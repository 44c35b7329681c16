"""Sums of several integers, with the steps that solve them: generated from a seed, or given.

Defines the texts of a problem and the splits. The split of a generated question depends on the
question alone, so that no size, seed or number of operands can move a test question into generated
training, within a run or between runs. `files.py` reads files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, get_args

import numpy as np

from gfn_ray.data.hash_split import place
from gfn_ray.errors import UserError

Part = Literal["train", "validation", "test"]

_UP_TO: dict[Part, float] = {"train": 0.6, "validation": 0.8, "test": 1.0}
_EXPRESSION = re.compile(r"-?[0-9]{1,9}(?: [+-] -?[0-9]{1,9})+")
# Draws for one new question before the questions count as exhausted.
_TRIES = 2000


@dataclass(frozen=True)
class Problem:
    """operands [N], N >= 2; signs [N-1], "+" or "-", before the second and later operands."""

    operands: tuple[int, ...]
    signs: tuple[str, ...]

    @property
    def expression(self) -> str:
        rest = zip(self.signs, self.operands[1:], strict=True)
        return " ".join([str(self.operands[0]), *(f"{sign} {operand}" for sign, operand in rest)])

    @property
    def question(self) -> str:
        return f"Question: {self.expression} = ? Answer:"

    @property
    def hinted_question(self) -> str:
        """The question with its answer shown first, for STaR's rationalisation."""
        return f"The answer is {self.solution}. {self.question}"

    @property
    def partial_sums(self) -> list[int]:
        """Value after each operand [N]."""
        sums = [self.operands[0]]
        for sign, operand in zip(self.signs, self.operands[1:], strict=True):
            sums.append(sums[-1] + operand if sign == "+" else sums[-1] - operand)
        return sums

    @property
    def solution(self) -> int:
        return self.partial_sums[-1]

    @property
    def rationale(self) -> str:
        """The steps with their values: " 6 - 0 = 6, 6 - 4 = 2, 2 - 8 = -6"."""
        sums = self.partial_sums
        steps = zip(sums, self.signs, self.operands[1:], sums[1:], strict=False)
        return ",".join(f" {left} {sign} {right} = {value}" for left, sign, right, value in steps)

    @property
    def part(self) -> Part:
        """The only split for which this question may be generated."""
        where = place(self.expression)
        return next(part for part, end in _UP_TO.items() if where < end)

    @property
    def answer(self) -> str:
        return f". The answer is {self.solution}."


@dataclass(frozen=True)
class Splits:
    """demonstrations: with their rationales. train: with answers only. validation, test: by
    number of operands. notes: remarks for people on how they were made. Raises ValueError
    if a question occurs twice."""

    demonstrations: list[Problem]
    train: list[Problem]
    validation: dict[int, list[Problem]]
    test: dict[int, list[Problem]]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        held_out = [*self.validation.values(), *self.test.values()]
        questions = [
            problem.question
            for part in (self.demonstrations, self.train, *held_out)
            for problem in part
        ]
        if len(set(questions)) < len(questions):
            raise ValueError("a question occurs twice in the splits")


def parse(expression: str) -> Problem:
    """Parses an expression such as "3 + 4 - 2"; raises ValueError for anything else."""
    words = expression.split()
    if _EXPRESSION.fullmatch(" ".join(words)) is None:
        raise ValueError(f"{expression!r} is not a sum of integers with + and - between them")
    return Problem(tuple(int(number) for number in words[::2]), tuple(words[1::2]))


def generate(
    seed: int,
    *,
    demonstrations: int | Sequence[Problem],
    problems: int | Sequence[Problem],
    train_operands: Sequence[int],
    held_out: int,
    held_out_operands: Sequence[int],
    largest_operand: int,
    test: Sequence[Problem] | None = None,
) -> Splits:
    """Generates splits, no two of which share a question.

    demonstrations, problems: how many to train on, with and without rationales, or given ones.
    held_out: size of the validation and of the test split per number of operands. test: given
    problems instead. Given problems are never drawn again, and must not overlap.
    largest_operand: operands are drawn from 0 to it. Every split has its own random stream: a
    larger one begins with the smaller. Raises UserError if there are too few questions.
    """
    seen = {
        one
        for given in (demonstrations, problems, test or ())
        if not isinstance(given, int)
        for one in given
    }

    def held_out_of(part: Part) -> dict[int, list[Problem]]:
        return {
            count: _draw(held_out, seed, part, (count,), largest_operand, seen)
            for count in held_out_operands
        }

    def training(given: int | Sequence[Problem], stream: int) -> list[Problem]:
        if not isinstance(given, int):
            return list(given)
        return _draw(given, seed, "train", train_operands, largest_operand, seen, stream)

    validation = held_out_of("validation")
    tested = held_out_of("test") if test is None else _by_operands(test)
    solved = training(demonstrations, stream=1)
    return Splits(solved, training(problems, stream=0), validation, tested)


def _by_operands(problems: Sequence[Problem]) -> dict[int, list[Problem]]:
    found: dict[int, list[Problem]] = {}
    for one in problems:
        found.setdefault(len(one.operands), []).append(one)
    return dict(sorted(found.items()))


def _draw(
    size: int,
    seed: int,
    part: Part,
    operands: Sequence[int],
    largest_operand: int,
    seen: set[Problem],
    stream: int = 0,
) -> list[Problem]:
    """Draws unseen problems of one part and adds them to the seen ones."""
    rng = np.random.default_rng([seed, get_args(Part).index(part), stream, *operands])
    questions = _questions(rng, operands, largest_operand)
    drawn: list[Problem] = []
    while len(drawn) < size:
        tried = islice(questions, _TRIES)
        new = next((one for one in tried if one.part == part and one not in seen), None)
        if new is None:
            raise UserError(
                f"there are no {size} {part} questions of {' or '.join(map(str, operands))} "
                f"operands up to {largest_operand}; lower task.problems, task.demonstrations or "
                "task.held_out, or raise task.largest_operand"
            )
        seen.add(new)
        drawn.append(new)
    return drawn


def _questions(
    rng: np.random.Generator, operands: Sequence[int], largest_operand: int
) -> Iterator[Problem]:
    """Yields problems without end, with repetitions."""
    while True:
        count = int(rng.choice(operands))
        numbers = rng.integers(largest_operand + 1, size=count)
        signs = rng.choice(["+", "-"], size=count - 1)
        yield Problem(tuple(numbers.tolist()), tuple(signs.tolist()))
