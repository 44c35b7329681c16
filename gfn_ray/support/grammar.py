"""The support of a formal language: a finite automaton over tokens, some of them a tool's.

Owns which tokens may follow which, who writes them, and the proof that every z ends.
`characters.py` makes one from a description of the language in characters.
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
    """A place in a z of a grammar support."""

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
    """Token sequences that lead through an automaton of S states over A classes of tokens.

    token_class [V]: class of each token, -1 for a token that z never contains.
    transitions [S, A]: state after a token of the class, -1 where none of it may follow.
    State 0 is that of the empty z. by_tool [S, A]: transitions that only a tool makes; the
    policy chooses among the others, and may stop in the states of may_stop [S]. stop_ids:
    the terminator, as a set of tokens without a class.

    A state may have transitions of both kinds: a tool goes on with its answer, or the
    policy goes on after it. The automaton only says which answers have a place in z; which of
    them the tool gives is for the tool to say (`contains`).
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
            raise ValueError("the language has no z but the empty one")

    @cached_property
    def max_len(self) -> int:
        """Tokens of the longest z."""
        level, length = np.array([0]), 0
        while True:
            level = _successors(self.transitions[level])
            if len(level) == 0:
                return length
            length += 1
            if length > len(self.transitions):
                raise ValueError(f"states {level[:5].tolist()} lie on a cycle: z has no bound")

    @property
    def vocab_size(self) -> int:
        return len(self.token_class)

    @cached_property
    def _rows(self) -> tuple[BoolArray, IntArray]:
        """What the policy may do [M, A+1], each set once, stopping last; the set of a state [S]."""
        policy = (self.transitions != NOWHERE) & ~self.by_tool
        actions = np.concatenate([policy, self.may_stop[:, None]], axis=1)
        rows, row_of_state = np.unique(actions, axis=0, return_inverse=True)
        return rows, row_of_state.reshape(-1).astype(np.int32)

    @property
    def row_of_state(self) -> IntArray:
        """Row of `masks` that rules the policy's next token in each state [S]."""
        return self._rows[1]

    @cached_property
    def masks(self) -> BoolArray:
        """Legality rows [M, V], one for each different set; nothing is legal in the row of a
        state in which the tool's answer is due."""
        rows, _ = self._rows
        masks = rows[:, self.token_class] & (self.token_class != NOWHERE)
        masks[:, self.stop_ids] = rows[:, -1:]
        return masks

    @property
    def may_be_empty(self) -> bool:
        """Whether the empty z may stop."""
        return bool(self.may_stop[0])

    def next_state(self, state: int, token: int) -> int:
        """The state after a token; ValueError where the language does not go on so."""
        kind = self.token_class[token] if 0 <= token < self.vocab_size else NOWHERE
        follower = int(self.transitions[state, kind]) if kind != NOWHERE else NOWHERE
        if follower == NOWHERE:
            raise ValueError(f"token {token} cannot follow in state {state} of the language")
        return follower

    def states(self, token_ids: Sequence[int] | IntArray) -> IntArray:
        """States [T+1] along z; ValueError where z leaves the language."""
        path = [0]
        for token in token_ids:
            path.append(self.next_state(path[-1], int(token)))
        return np.array(path, dtype=np.int32)

    def mask_rows(self, token_ids: Sequence[int] | IntArray) -> IntArray:
        """Rows of `masks` [T+1] after each prefix of z; ValueError where z leaves the language."""
        return self.row_of_state[self.states(token_ids)]

    def cursor(self) -> GrammarCursor:
        """The place before the first token."""
        return GrammarCursor(self)

    def terminable(self, token_ids: Sequence[int] | IntArray) -> BoolArray:
        """Prefixes [T+1] that may stop: never one in the midst of a tool's answer."""
        ends = self.may_stop[self.states(token_ids)]
        ends[:-1] &= ~self.tool_mask(token_ids)
        return ends

    def tool_mask(self, token_ids: Sequence[int] | IntArray) -> BoolArray:
        """Tokens [T] that a tool writes."""
        kinds = self.token_class[np.asarray(token_ids, dtype=np.int64)]
        return self.by_tool[self.states(token_ids)[:-1], kinds]

    def contains(self, token_ids: Sequence[int] | IntArray, answer: Answer | None = None) -> bool:
        """Whether z belongs to the language and, where `answer` can tell, whether each run of the
        tool's tokens is what it answers to what stands before."""
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
    """States [S] to which some path leads from state 0; transitions [S, A]."""
    reached = np.zeros(len(transitions), dtype=np.bool_)
    level = np.array([0])
    while len(level):
        reached[level] = True
        level = _successors(transitions[level])
        level = level[~reached[level]]
    return reached


def stopping_states(transitions: IntArray, may_stop: BoolArray) -> BoolArray:
    """States [S] from which some path leads to one that may stop; transitions [S, A]."""
    alive = may_stop
    while True:
        # The entry appended stands where index -1 points: nowhere is not alive.
        wider = may_stop | np.append(alive, False)[transitions].any(axis=1)
        if np.array_equal(wider, alive):
            return alive
        alive = wider


def _successors(rows: IntArray) -> IntArray:
    """The states, each once, to which rows of the table lead."""
    return np.unique(rows[rows != NOWHERE])
