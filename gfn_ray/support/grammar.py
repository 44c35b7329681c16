"""The support of a formal language: a finite automaton over tokens, some written by a tool.

Defines which tokens may follow which and who writes them, and verifies that every z ends.
`characters.py` builds one from a description of the language in characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gfn_ray.support.protocol import Answer
from gfn_ray.trajectory import BoolArray, IntArray

NOWHERE = -1


class GrammarCursor:
    """A position in a z of a grammar support."""

    def __init__(self, support: GrammarSupport) -> None:
        self._support = support
        self._state = 0

    @property
    def row(self) -> int:
        return int(self._support.row_of_state[self._state])

    def advance(self, token: int) -> None:
        self._state = self._support.next_state(self._state, token)


@dataclass(frozen=True, eq=False)
class GrammarSupport:
    """Token sequences accepted by an automaton of S states over A classes of tokens.

    token_class [V]: class of each token, -1 for a token that z never contains.
    transitions [S, A]: state after a token of the class, -1 if none of it may follow.
    State 0 is that of the empty z. by_tool [S, A]: transitions that only a tool makes; the
    policy chooses among the others, and may stop in the states of may_stop [S]. stop_ids:
    the terminator, as a set of tokens without a class.

    A state may have transitions of both kinds: the tool continues its answer, or the policy
    continues after it. The automaton only says which answers are possible in z; the tool decides
    which one it gives (`contains`).
    """

    token_class: IntArray
    transitions: IntArray
    by_tool: BoolArray
    may_stop: BoolArray
    stop_ids: IntArray

    def __post_init__(self) -> None:
        states, classes = self.transitions.shape
        if self.by_tool.shape != (states, classes) or self.may_stop.shape != (states,):
            raise ValueError(
                f"transitions {self.transitions.shape}, by_tool {self.by_tool.shape} and may_stop "
                f"{self.may_stop.shape} do not describe the same states"
            )
        if self.transitions.max(initial=NOWHERE) >= states:
            raise ValueError(f"a transition leads to a state above the last, {states - 1}")
        if self.token_class.max(initial=NOWHERE) >= classes:
            raise ValueError(f"a token has a class above the last, {classes - 1}")
        if len(self.stop_ids) == 0 or (self.token_class[self.stop_ids] != NOWHERE).any():
            raise ValueError("stop_ids must be non-empty and without a class")
        reachable = np.flatnonzero(reachable_states(self.transitions))
        dead = reachable[~stopping_states(self.transitions, self.may_stop)[reachable]]
        if len(dead):
            raise ValueError(f"state {dead[0]} is a dead end: no stop can be reached from it")
        if self.max_len == 0:
            raise ValueError("the language has no z except the empty one")

    @cached_property
    def max_len(self) -> int:
        """Length of the longest z, in tokens."""
        level, length = np.array([0]), 0
        while True:
            level = _successors(self.transitions[level])
            if len(level) == 0:
                return length
            length += 1
            if length > len(self.transitions):
                raise ValueError(f"states {level[:5].tolist()} lie on a cycle: z is unbounded")

    @property
    def vocab_size(self) -> int:
        return len(self.token_class)

    @cached_property
    def _rows(self) -> tuple[BoolArray, IntArray]:
        """Distinct sets of legal actions [M, A+1], stopping last, and the set of each state [S]."""
        policy = (self.transitions != NOWHERE) & ~self.by_tool
        actions = np.concatenate([policy, self.may_stop[:, None]], axis=1)
        rows, row_of_state = np.unique(actions, axis=0, return_inverse=True)
        return rows, row_of_state.reshape(-1).astype(np.int32)

    @property
    def row_of_state(self) -> IntArray:
        """Row of `masks` for the policy's next token in each state [S]."""
        return self._rows[1]

    @cached_property
    def masks(self) -> BoolArray:
        """Legality rows [M, V], one per distinct set; nothing is legal in the row of a state in
        which the tool must answer."""
        rows, _ = self._rows
        masks = rows[:, self.token_class] & (self.token_class != NOWHERE)
        masks[:, self.stop_ids] = rows[:, -1:]
        return masks

    @property
    def may_be_empty(self) -> bool:
        """Whether the empty z may stop."""
        return bool(self.may_stop[0])

    def next_state(self, state: int, token: int) -> int:
        """Returns the state after a token; raises ValueError if it may not follow."""
        kind = self.token_class[token] if 0 <= token < self.vocab_size else NOWHERE
        follower = int(self.transitions[state, kind]) if kind != NOWHERE else NOWHERE
        if follower == NOWHERE:
            raise ValueError(f"token {token} cannot follow in state {state} of the language")
        return follower

    def states(self, token_ids: Sequence[int] | IntArray) -> IntArray:
        """Returns the states along z [T+1]; raises ValueError if z leaves the language."""
        path = [0]
        for token in token_ids:
            path.append(self.next_state(path[-1], int(token)))
        return np.array(path, dtype=np.int32)

    def mask_rows(self, token_ids: Sequence[int] | IntArray) -> IntArray:
        """Returns the row of `masks` after each prefix [T+1]; raises ValueError as `states`."""
        return self.row_of_state[self.states(token_ids)]

    def cursor(self) -> GrammarCursor:
        """Returns a cursor before the first token."""
        return GrammarCursor(self)

    def terminable(self, token_ids: Sequence[int] | IntArray) -> BoolArray:
        """Returns which prefixes may stop [T+1]: never one inside a tool's answer."""
        ends = self.may_stop[self.states(token_ids)]
        ends[:-1] &= ~self.tool_mask(token_ids)
        return ends

    def tool_mask(self, token_ids: Sequence[int] | IntArray) -> BoolArray:
        """Returns which tokens a tool writes [T]."""
        kinds = self.token_class[np.asarray(token_ids, dtype=np.int64)]
        return self.by_tool[self.states(token_ids)[:-1], kinds]

    def contains(self, token_ids: Sequence[int] | IntArray, answer: Answer | None = None) -> bool:
        """Whether z belongs to the language and, if `answer` is given, whether each run of the
        tool's tokens is its answer to the prefix before it."""
        tokens = np.asarray(token_ids, dtype=np.int32)
        try:
            states = self.states(tokens)
        except ValueError:
            return False
        if not self.may_stop[states[-1]]:
            return False
        if answer is None:
            return True
        edges = np.diff(self.tool_mask(tokens).astype(np.int8), prepend=0, append=0)
        runs = zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True)
        return all(np.array_equal(answer(tokens[:begin]), tokens[begin:end]) for begin, end in runs)


def reachable_states(transitions: IntArray) -> BoolArray:
    """Returns which states are reachable from state 0 [S]; transitions [S, A]."""
    reached = np.zeros(len(transitions), dtype=np.bool_)
    level = np.array([0])
    while len(level):
        reached[level] = True
        level = _successors(transitions[level])
        level = level[~reached[level]]
    return reached


def stopping_states(transitions: IntArray, may_stop: BoolArray) -> BoolArray:
    """Returns which states can reach one that may stop [S]; transitions [S, A]."""
    alive = may_stop
    while True:
        # Index -1 (NOWHERE) points at the appended entry, which is not alive.
        wider = may_stop | np.append(alive, False)[transitions].any(axis=1)
        if np.array_equal(wider, alive):
            return alive
        alive = wider


def _successors(rows: IntArray) -> IntArray:
    """Returns the distinct states to which rows of the table lead."""
    return np.unique(rows[rows != NOWHERE])
