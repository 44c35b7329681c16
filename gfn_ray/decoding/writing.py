"""Writes z under a model and the policy's support, many at a time, with log q of each token.

One token of every z after another: chosen by a rule, given by a tool, or given from the start.
Who weighs, keeps or cuts what is written is the decoder's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gfn_ray.decoding.frontier import Frontier
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.support import Support
from gfn_ray.trajectory import IntArray, Query, Trajectory

Array = npt.NDArray[np.float64]
Choice = Callable[[Tensor, Sequence[int]], Tensor]
"""Maps log-probabilities of actions [N, V], and the numbers of the z that they are for [N], to one
action each [N]."""


@dataclass
class Written:
    """A z and how it came about. owner: number of its prompt. log_q [T]: of each token, in nats, 0
    where by_tool [T]. log_stop: of stopping after them, 0 where nothing else is legal."""

    owner: int
    tokens: list[int] = field(default_factory=list)
    by_tool: list[bool] = field(default_factory=list)
    log_q: list[float] = field(default_factory=list)
    log_stop: float = 0.0
    stopped: bool = False

    def __len__(self) -> int:
        return len(self.tokens)

    def append(self, token: int, log_q: float, *, by_tool: bool = False) -> None:
        self.tokens.append(token)
        self.log_q.append(log_q)
        self.by_tool.append(by_tool)

    def cut(self, length: int) -> Written:
        """Its first tokens, unfinished."""
        parts = (self.tokens[:length], self.by_tool[:length], self.log_q[:length])
        return Written(self.owner, *parts)

    def copy(self) -> Written:
        return replace(self.cut(len(self)), log_stop=self.log_stop, stopped=self.stopped)

    @property
    def choices(self) -> list[int]:
        """Lengths at which the policy chose what comes next, the end included."""
        return [*(t for t, by_tool in enumerate(self.by_tool) if not by_tool), len(self)]

    def log_q_from(self, length: int) -> float:
        """log q of what follows a beginning of this length, the stop included."""
        return sum(self.log_q[length:]) + self.log_stop

    def trajectory(self, query: Query, support: Support) -> Trajectory:
        """The z as an unscored record, of which only the whole is to be scored."""
        terminable = np.zeros(len(self) + 1, dtype=np.bool_)
        terminable[-1] = True
        known = Trajectory.demonstration(
            query.query_id,
            np.array(self.tokens, dtype=np.int32),
            np.array(self.by_tool, dtype=np.bool_),
            terminable,
            stopped=len(self) < support.max_len,
        )
        log_q = np.array(self.log_q, dtype=np.float32)
        return replace(known, sampler_log_pf=log_q, sampler_log_stop=self.log_stop)


LogTarget = Callable[[Sequence[Written]], Array]
"""log R/T of each z, or of each beginning as a whole z."""


class Writing:
    """z under way: `begun`, of which most are empty, one for each z to be written.

    tool: writes where the support leaves it to a tool. tool_calls, tool_errors: counted so far.
    """

    def __init__(
        self,
        model: Any,
        support: Support,
        prompts: Sequence[IntArray],
        begun: Sequence[Written],
        choose: Choice,
        tool: ToolLoop | None = None,
    ) -> None:
        self._support = support
        self._prompts = prompts
        self._choose = choose
        self._tool = tool
        self._triggers = frozenset(tool.trigger_ids) if tool else frozenset[int]()
        self._frontier = Frontier(model, support, prompts)
        self.found = [Written(one.owner) for one in begun]
        self._given = [deque(zip(one.tokens, one.log_q, one.by_tool, strict=True)) for one in begun]
        self._rows = [one.owner for one in begun]  # each prompt has one row for all its z
        self._over = [False] * len(begun)
        self.tool_calls = self.tool_errors = 0

    @property
    def is_over(self) -> bool:
        return all(self._over)

    def step(self) -> None:
        """Adds a token to every z that is not over, or ends it."""
        live = [i for i, over in enumerate(self._over) if not over]
        if asked := [i for i in live if not self._given[i]]:
            self._ask(asked)
        going = [i for i in live if self._given[i]]
        for i in going:
            token, log_q, by_tool = self._given[i].popleft()
            self.found[i].append(token, log_q, by_tool=by_tool)
            self._over[i] = len(self.found[i]) == self._support.max_len
        on = [i for i in going if not self._over[i]]
        if on:
            parents = [self._rows[i] for i in on]
            self._frontier.extend(parents, [self.found[i].tokens[-1] for i in on])
        for row, i in enumerate(on):
            self._rows[i] = row

    def _ask(self, asked: Sequence[int]) -> None:
        """Has the next action of these z chosen."""
        log_probs = self._frontier.log_probs[[self._rows[i] for i in asked]]
        actions = self._choose(log_probs, asked)
        values = log_probs.gather(1, actions[:, None])[:, 0].tolist()
        for i, action, log_q in zip(asked, actions.tolist(), values, strict=True):
            one = self.found[i]
            if action == self._frontier.stop:
                one.log_stop, one.stopped, self._over[i] = log_q, True, True
                continue
            self._given[i].append((action, log_q, False))
            if self._tool is not None and action in self._triggers:
                so_far = np.array([*one.tokens, action], dtype=np.int32)
                answer = self._tool.answer_ids(self._prompts[one.owner], so_far)
                self.tool_calls += 1
                self.tool_errors += answer.failed
                self._given[i].extend((token, 0.0, True) for token in answer.token_ids.tolist())

    def may_stop(self, i: int) -> bool:
        """Whether z number i, as it stands, could end here by the policy's choice."""
        one = self.found[i]
        return not self._given[i] and bool(self._support.terminable(one.tokens)[-1])

    def log_stop(self, i: int) -> float:
        """log q of ending here, for a z that may stop; 0 where nothing else is legal."""
        if self._over[i]:
            return self.found[i].log_stop
        return float(self._frontier.log_probs[self._rows[i], self._frontier.stop])

    def is_at_end(self, i: int) -> bool:
        return self._over[i]

    def replace(self, places: Iterable[int], ancestors: Iterable[int]) -> None:
        """Puts copies of the z of these numbers at these places."""
        pairs = list(zip(places, ancestors, strict=True))
        copies = [
            (self.found[a].copy(), self._given[a].copy(), self._rows[a], self._over[a])
            for _, a in pairs
        ]
        for (place, _), (one, given, row, over) in zip(pairs, copies, strict=True):
            self.found[place], self._given[place] = one, given
            self._rows[place], self._over[place] = row, over


def write(
    model: Any,
    support: Support,
    prompts: Sequence[IntArray],
    begun: Sequence[Written],
    choose: Choice,
    tool: ToolLoop | None = None,
) -> list[Written]:
    """Writes every z to its end, in the order of `begun`."""
    writing = Writing(model, support, prompts, begun, choose, tool)
    while not writing.is_over:
        writing.step()
    return writing.found
