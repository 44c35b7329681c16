"""The answer of a chain of calculation, the majority answer of several, and their checks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gfn_ray.trajectory import Query

_VALUE = re.compile(r"= ?(-?\d+)$")


@dataclass(frozen=True)
class AnswerCheck:
    """Returns -nats for a chain that does not end at the solution, else 0."""

    nats: float

    def __call__(self, query: Query, text: str) -> float:
        return 0.0 if is_right(query, text) else -self.nats


def answer_of(text: str) -> str | None:
    """Returns the value of a rationale's last equation; None if it has none."""
    found = _VALUE.search(text)
    return None if found is None else str(int(found[1]))


def is_right(query: Query, text: str) -> bool:
    """Whether a chain ends at the solution."""
    return answer_of(text) == query.texts["solution"]


def majority_share(answers: Sequence[str | None], right: str) -> float:
    """Returns 1 if the right answer has the most votes, 1/k if it ties with k - 1 others, else 0.

    Samples without an answer do not vote.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    most = max(votes.values(), default=0)
    leaders = [answer for answer, count in votes.items() if count == most]
    return 1 / len(leaders) if right in leaders else 0.0
