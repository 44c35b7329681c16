"""A support contains a z exactly where its masks, token by token, let policy and tool write it and
then stop."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.support import BoundedSupport, GrammarSupport, lift
from testing.grammars import SUMS, SumGrammar
from testing.makers import make_support

VOCABULARY = 16
BOUNDED = st.integers(0, 3).flatmap(
    lambda low: st.builds(
        make_support, st.just(low), st.integers(max(low, 1), 4), st.just(VOCABULARY)
    )
)
# Stop tokens, tokens of no kind and numbers that are no token among them.
ANY_TOKENS = st.lists(st.integers(-2, VOCABULARY + 1), max_size=5)

TEXTS = ["", ".", *"01256+=;?", "10", "1+", "5=", "0;", "=1"]
STOP = TEXTS.index(".")
SUMS_OF_TWO = lift(SumGrammar(), TEXTS, [STOP])


def legal_step_by_step(support, tokens):
    cursor = support.cursor()
    for token in tokens:
        if not 0 <= token < support.vocab_size or token in support.stop_ids:
            return False
        by_tool = isinstance(support, GrammarSupport) and tool_may_write(support, cursor, token)
        if not (support.masks[cursor.row, token] or by_tool):
            return False
        cursor.advance(token)
    return bool(support.masks[cursor.row, support.stop_ids].all())


def tool_may_write(support, cursor, token):
    kind = support.token_class[token]
    return kind >= 0 and bool(support.by_tool[cursor._state, kind])


@given(BOUNDED, ANY_TOKENS)
def test_a_bounded_support_contains_what_its_masks_let_through(support: BoundedSupport, tokens):
    assert support.contains(tokens) == legal_step_by_step(support, tokens)


@given(BOUNDED, st.data())
def test_a_z_is_in_the_support_and_no_more_with_a_stop_in_its_midst(support, data):
    tokens: list[int] = []
    while True:
        legal = np.flatnonzero(support.masks[support.mask_rows(tokens)[-1]]).tolist()
        token = data.draw(st.sampled_from(legal))
        if token in support.stop_ids:
            break
        tokens.append(token)
    assert support.contains(tokens) and legal_step_by_step(support, tokens)
    for place, stop in product(range(len(tokens) + 1), support.stop_ids.tolist()):
        assert not support.contains([*tokens[:place], stop, *tokens[place:]])


@given(st.lists(st.integers(-2, len(TEXTS) + 1), max_size=12))
def test_a_grammar_contains_what_its_masks_and_its_tool_let_through(tokens):
    assert SUMS_OF_TWO.contains(tokens) == legal_step_by_step(SUMS_OF_TWO, tokens)


def spell(text):
    return np.array([TEXTS.index(character) for character in text], dtype=np.int32)


def added(z):
    """What an adder writes after a z that calls it."""
    left, right = "".join(TEXTS[token] for token in z).split(";")[-1].removesuffix("=").split("+")
    return spell(str(int(left) + int(right)))


@given(st.lists(st.tuples(*[st.sampled_from("015")] * 2, st.sampled_from(SUMS)), max_size=2))
def test_what_a_tool_wrote_is_what_the_tool_answers(sums):
    z = spell(";".join(f"{left}+{right}={value}" for left, right, value in sums))
    assert SUMS_OF_TWO.contains(z) == bool(sums)
    right = all(int(one) + int(other) == int(value) for one, other, value in sums)
    assert SUMS_OF_TWO.contains(z, added) == (bool(sums) and right)


@dataclass(frozen=True)
class Table:
    """A language as a table: by state and character, where it leads and who writes it. Later
    states only, so that every text ends."""

    follower: tuple[tuple[int | None, ...], ...]
    tool: tuple[tuple[bool, ...], ...]
    ends: tuple[bool, ...]
    start = 0

    def step(self, state, character):
        return self.follower[state]["ab".index(character)]

    def by_tool(self, state, character):
        return self.tool[state]["ab".index(character)]

    def may_stop(self, state):
        return self.ends[state]

    def writes(self, tokens, texts):
        """Whether these tokens spell a text of the language, each by one writer."""
        state = self.start
        for token in tokens:
            writers = set()
            for character in texts[token]:
                writers.add(self.by_tool(state, character))
                state = self.step(state, character)
                if state is None:
                    return False
            if len(writers) != 1:
                return False
        return self.may_stop(state)


@st.composite
def tables(draw):
    size = draw(st.integers(1, 4))
    later = [
        st.tuples(*[st.sampled_from([None, *range(state + 1, size)])] * 2) for state in range(size)
    ]
    return Table(
        draw(st.tuples(*later)),
        draw(st.tuples(*[st.tuples(st.booleans(), st.booleans())] * size)),
        draw(st.tuples(*[st.booleans()] * size)),
    )


@given(tables(), st.lists(st.sampled_from(["", "a", "b", "ab", "ba", "aa"]), max_size=4))
def test_a_lifted_grammar_contains_every_spelling_of_its_texts_or_is_refused(table, texts):
    texts = ["", *texts]  # the first is the stop
    spelled = [
        z
        for length in range(4)
        for z in product(range(1, len(texts)), repeat=length)
        if table.writes(z, texts)
    ]
    if not any(spelled):
        with pytest.raises(ValueError, match=r"cannot spell any text"):
            lift(table, texts, [0])
        return
    support = lift(table, texts, [0])
    found = [
        z
        for length in range(4)
        for z in product(range(len(texts)), repeat=length)
        if support.contains(z)
    ]
    assert found == spelled
    assert all(legal_step_by_step(support, z) for z in found)
