"""What chains of calculation answer: one of them, most of them, and whether that is right."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gfn_ray.trajectory import Query

_VALUE = re.compile(r"= ?(-?\d+)$")


@dataclass(frozen=True)
class AnswerCheck:
    """-nats for a chain that does not end at the solution."""

    nats: float

    def __call__(self, query: Query, text: str) -> float:
        return 0.0 if answer_of(text) == query.texts["solution"] else -self.nats


def answer_of(text: str) -> str | None:
    """The value of a rationale's last equation; None where there is none."""
    found = _VALUE.search(text)
    return None if found is None else str(int(found[1]))


def majority_share(answers: Sequence[str | None], right: str) -> float:
    """1 where most samples give the right answer, 0 where not, 1/k where it is one of k that tie.

    Samples without an answer do not vote.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    most = max(votes.values(), default=0)
    leaders = [answer for answer, count in votes.items() if count == most]
    return 1 / len(leaders) if right in leaders else 0.0
