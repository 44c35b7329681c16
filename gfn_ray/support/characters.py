"""Turns a language described in characters into a support over a tokenizer's tokens.

A task defines the legal texts once, character by character; their tokens depend on the
model. Every tokenization of a text is kept, because each has its own log q.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from gfn_ray.support.grammar import NOWHERE, GrammarSupport, reachable_states, stopping_states
from gfn_ray.trajectory import IntArray

# Far above any task's language; stops a grammar that counts without end.
MOST_STATES = 100_000


class CharacterGrammar(Protocol):
    """A language as an automaton over characters; equal states have equal continuations."""

    @property
    def start(self) -> Hashable:
        """The state of the empty text."""
        ...

    def step(self, state: Any, character: str) -> Hashable | None:
        """Returns the state after a character; None if no text of the language continues so."""
        ...

    def by_tool(self, state: Any, character: str) -> bool:
        """Whether a tool, not the policy, writes this character in this state."""
        ...

    def may_stop(self, state: Any) -> bool:
        """Whether the policy may stop after a text that leads to this state."""
        ...


@dataclass
class _Trie:
    """Token texts by their characters. tokens: ids whose text ends here."""

    children: dict[str, _Trie] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=list)


def lift(
    grammar: CharacterGrammar, token_texts: Sequence[str], stop_ids: Sequence[int] | IntArray
) -> GrammarSupport:
    """Builds the support of a language for a tokenizer.

    token_texts [V]: the text of each token inside a sentence, "" for a token that z may not
    contain. stop_ids: the terminator; these tokens are never part of z. A token that the
    policy and a tool would have to write together is illegal, and so is one from which no tokens
    lead to an end. Raises ValueError if nothing is left.
    """
    stops = {int(token) for token in stop_ids}
    trie = _index(token_texts, stops)
    numbers: dict[Hashable, int] = {grammar.start: 0}
    queue = [grammar.start]
    edges: list[tuple[int, int, int, bool]] = []  # state, token, next state, by a tool
    for number, state in enumerate(queue):
        for token, follower, by_tool in _moves(grammar, state, trie):
            if follower not in numbers:
                numbers[follower] = len(queue)
                queue.append(follower)
            edges.append((number, token, numbers[follower], by_tool))
        if len(queue) > MOST_STATES:
            raise ValueError(f"the language has more than {MOST_STATES} states: z is unbounded")
    may_stop = np.array([grammar.may_stop(state) for state in queue], dtype=np.bool_)

    used = sorted({token for _, token, _, _ in edges})
    column = {token: index for index, token in enumerate(used)}
    transitions = np.full((len(queue), len(used)), NOWHERE, dtype=np.int32)
    tool = np.zeros(transitions.shape, dtype=np.bool_)
    for number, token, target, by_tool in edges:
        transitions[number, column[token]] = target
        tool[number, column[token]] = by_tool

    alive = stopping_states(transitions, may_stop)
    transitions[~np.append(alive, False)[transitions]] = NOWHERE
    # The empty text alone is not enough: it needs no token.
    if not (transitions[0] != NOWHERE).any():
        raise ValueError("the tokenizer cannot spell any text of the language")
    kept = np.flatnonzero(reachable_states(transitions))
    renumbered = np.full(len(queue) + 1, NOWHERE, dtype=np.int32)
    renumbered[kept] = np.arange(len(kept))
    transitions = renumbered[transitions[kept]]
    tool = tool[kept] & (transitions != NOWHERE)

    # Tokens that behave alike everywhere share a class; some occur only on removed paths.
    spelling = (transitions != NOWHERE).any(axis=0)
    columns = np.concatenate([transitions, tool]).T[spelling]
    classes, class_of = np.unique(columns, axis=0, return_inverse=True)
    token_class = np.full(len(token_texts), NOWHERE, dtype=np.int32)
    token_class[np.array(used)[spelling]] = class_of.reshape(-1)
    return GrammarSupport(
        token_class=token_class,
        transitions=np.ascontiguousarray(classes[:, : len(kept)].T.astype(np.int32)),
        by_tool=np.ascontiguousarray(classes[:, len(kept) :].T.astype(np.bool_)),
        may_stop=may_stop[kept],
        stop_ids=np.array(sorted(stops), dtype=np.int32),
    )


def _index(token_texts: Sequence[str], stops: set[int]) -> _Trie:
    root = _Trie()
    for token, text in enumerate(token_texts):
        if not text or token in stops:
            continue
        node = root
        for character in text:
            node = node.children.setdefault(character, _Trie())
        node.tokens.append(token)
    return root


def _moves(
    grammar: CharacterGrammar, state: Hashable, trie: _Trie
) -> Iterator[tuple[int, Hashable, bool]]:
    """Yields each token that may follow: id, next state, and whether a tool writes it."""
    stack: list[tuple[_Trie, Hashable, bool | None]] = [(trie, state, None)]
    while stack:
        node, here, writer = stack.pop()
        for character, child in node.children.items():
            follower = grammar.step(here, character)
            if follower is None:
                continue
            by_tool = grammar.by_tool(here, character)
            if writer is not None and by_tool != writer:
                continue
            for token in child.tokens:
                yield token, follower, by_tool
            stack.append((child, follower, by_tool))
