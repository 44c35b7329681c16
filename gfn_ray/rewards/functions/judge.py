"""One reward a completion, from several functions with weights.

Owns what a row is to a reward function, and the sum. Knows no model: texts in, numbers out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gfn_ray.rewards.functions.calling import Arguments, Faults, Rewards

Message = dict[str, str]
Prompt = str | list[Message]


@dataclass(frozen=True)
class Row:
    """A row of the data. place: where it stands, as in "prompts.jsonl, line 3". columns: cells
    beside the prompt, as JSON knows them."""

    place: str
    prompt: Prompt
    columns: dict[str, Any] = field(default_factory=dict)


class RewardFunction(Protocol):
    """name: as a message calls it."""

    @property
    def name(self) -> str: ...

    def __call__(self, arguments: Arguments) -> tuple[Rewards, Faults]:
        """A reward or None for each completion, and by row what went wrong there."""
        ...


@dataclass(frozen=True)
class Judged:
    """reward: the weighted sum. fault: why there is none, with the row; None where there is one."""

    reward: float
    fault: str | None = None


@dataclass(frozen=True)
class Judge:
    """Functions and, for each, the weight of its reward in the sum."""

    functions: Sequence[RewardFunction]
    weights: Sequence[float]

    def __call__(
        self, rows: Sequence[Row], texts: Sequence[str], token_ids: Sequence[Sequence[int]]
    ) -> list[Judged]:
        """rows [N]: of each completion. texts [N]: completions. token_ids [N]: theirs."""
        if not rows:
            return []
        names = sorted({name for row in rows for name in row.columns})
        arguments: Arguments = {
            "prompts": [row.prompt for row in rows],
            "completions": [
                text if isinstance(row.prompt, str) else [{"role": "assistant", "content": text}]
                for row, text in zip(rows, texts, strict=True)
            ],
            "completion_ids": [[int(token) for token in ids] for ids in token_ids],
            **{name: [row.columns.get(name) for row in rows] for name in names},
        }
        totals = [0.0] * len(rows)
        applied = [False] * len(rows)
        faults: dict[int, str] = {}
        for function, weight in zip(self.functions, self.weights, strict=True):
            rewards, wrong = function(arguments)
            for i, reward in enumerate(rewards):
                if i in wrong:
                    said = f"the reward {function.name} failed on {rows[i].place}: {wrong[i]}"
                    faults.setdefault(i, said)
                elif reward is not None:
                    totals[i] += weight * reward
                    applied[i] = True
        for i, row in enumerate(rows):
            if not applied[i]:
                faults.setdefault(i, f"every reward function gave None for {row.place}")
        return [Judged(total, faults.get(i)) for i, total in enumerate(totals)]
