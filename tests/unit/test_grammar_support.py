"""The support of a language: its automaton over tokens, and where a tool has its place."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.support import GrammarSupport, lift
from gfn_ray.tasks.demonstrations import demonstration_trajectory
from testing.grammars import SumGrammar

# Single characters, and tokens of several; the last two join what two writers write.
TEXTS = ["", ".", *"01256+=;?", "10", "1+", "+1", "5=", "0;", ";5", "x", "=1", "1;"]
STOP = 1
TOKEN = {text: token for token, text in enumerate(TEXTS)}
SUPPORT = lift(SumGrammar(), TEXTS, [STOP])


def spell(*texts):
    return np.array([TOKEN[text] for text in texts], dtype=np.int32)


def automaton(transitions, may_stop, **changes):
    """Token 0 stops, token c + 1 has class c."""
    transitions = np.array(transitions, dtype=np.int32)
    fields = {
        "token_class": np.arange(-1, transitions.shape[1], dtype=np.int32),
        "transitions": transitions,
        "by_tool": np.zeros(transitions.shape, dtype=np.bool_),
        "may_stop": np.array(may_stop, dtype=np.bool_),
        "stop_ids": np.array([0], dtype=np.int32),
    }
    return GrammarSupport(**{**fields, **changes})


@st.composite
def walks(draw):
    """A z of the language, by free choices of the policy and of the tool."""
    state, tokens = 0, []
    while True:
        classes = np.flatnonzero(SUPPORT.transitions[state] >= 0).tolist()
        if SUPPORT.may_stop[state] and (not classes or draw(st.booleans())):
            return np.array(tokens, dtype=np.int32)
        kind = draw(st.sampled_from(classes))
        tokens.append(draw(st.sampled_from(np.flatnonzero(SUPPORT.token_class == kind).tolist())))
        state = int(SUPPORT.transitions[state, kind])


def text_of(tokens):
    return "".join(TEXTS[token] for token in tokens)


@given(walks())
def test_every_walk_through_the_automaton_is_a_text_of_the_language(z):
    grammar = SumGrammar()
    state = grammar.start
    for character in text_of(z):
        state = grammar.step(state, character)
    assert grammar.may_stop(state)
    assert SUPPORT.contains(z)
    assert len(z) <= SUPPORT.max_len


@given(walks())
def test_the_cursor_reads_the_rows_of_mask_rows(z):
    cursor, rows = SUPPORT.cursor(), []
    for token in z:
        rows.append(cursor.row)
        cursor.advance(int(token))
    assert [*rows, cursor.row] == SUPPORT.mask_rows(z).tolist()


@given(walks())
def test_the_tool_mask_marks_the_characters_of_answers_and_no_others(z):
    marked = [
        by_tool
        for token, by_tool in zip(z, SUPPORT.tool_mask(z), strict=True)
        for _ in TEXTS[token]
    ]
    answers, inside = [], False
    for character in text_of(z):
        inside = inside and character != ";"
        answers.append(inside)
        inside = inside or character == "="
    assert marked == answers


@given(walks())
def test_a_token_is_legal_for_the_policy_exactly_where_the_policy_writes_it(z):
    legal = SUPPORT.masks[SUPPORT.mask_rows(z)[:-1], z]
    assert legal.tolist() == (~SUPPORT.tool_mask(z)).tolist()


@given(walks())
def test_a_prefix_may_stop_after_a_whole_answer_and_nowhere_else(z):
    grammar = SumGrammar()
    tool_mask, terminable = SUPPORT.tool_mask(z), SUPPORT.terminable(z)
    for t in range(len(z) + 1):
        state = grammar.start
        for character in text_of(z[:t]):
            state = grammar.step(state, character)
        answer_goes_on = t < len(z) and tool_mask[t]
        assert terminable[t] == (grammar.may_stop(state) and not answer_goes_on)
    assert terminable[-1]
    assert not any(terminable[t] and by_tool for t, by_tool in enumerate(tool_mask))


def test_in_the_midst_of_an_answer_z_may_not_stop_where_the_same_text_otherwise_may():
    half, whole = spell("5", "+", "5=", "1"), spell("5", "+", "5=", "1", "0")
    assert SUPPORT.terminable(half).tolist() == [False, False, False, False, True]
    assert SUPPORT.terminable(whole).tolist() == [False, False, False, False, False, True]


@given(walks())
def test_stopping_is_legal_exactly_where_the_row_says(z):
    may_stop = SUPPORT.masks[SUPPORT.mask_rows(z), STOP]
    assert (may_stop | ~SUPPORT.terminable(z)).all()
    assert may_stop[-1]


def test_nothing_is_legal_for_the_policy_where_the_answer_is_due():
    row = SUPPORT.mask_rows(spell("1", "+1", "="))[-1]
    assert not SUPPORT.masks[row].any()


def test_rows_are_few_and_different():
    assert len(np.unique(SUPPORT.masks, axis=0)) == len(SUPPORT.masks)
    assert len(SUPPORT.masks) < len(SUPPORT.transitions)


def test_the_longest_z_is_counted_in_tokens():
    assert SUPPORT.max_len == len("5+5=10;5+5=10")
    assert SUPPORT.contains(spell(*"5+5=10;5+5=10"))


@pytest.mark.parametrize("joined", ["=1", "1;"])
def test_a_token_that_policy_and_tool_would_write_together_is_illegal(joined):
    assert SUPPORT.token_class[TOKEN[joined]] == -1
    assert not SUPPORT.contains(spell("0", "+1", joined))


def test_a_text_with_its_answers_is_a_known_trajectory():
    z = spell("0", "+", "5=", "5", ";", "5", "+", "5", "=", "10")
    known = demonstration_trajectory("q", z, SUPPORT)
    assert np.flatnonzero(known.tool_mask).tolist() == [3, 9]
    assert np.flatnonzero(known.terminable).tolist() == [4, 10]
    assert known.stopped


def test_what_leaves_the_language_is_outside_the_support():
    for z in (spell("+"), spell("0", "+1"), spell("x"), spell(*"0+5=;"), np.array([STOP])):
        assert not SUPPORT.contains(z)
    with pytest.raises(ValueError, match="cannot follow"):
        SUPPORT.mask_rows(spell("0", "0"))


def test_texts_that_no_token_can_finish_are_left_out():
    without = [text if text not in {"+", "+1"} else "" for text in TEXTS]
    support = lift(SumGrammar(), without, [STOP])
    first = set(np.flatnonzero(support.masks[support.mask_rows([])[0]]).tolist())
    assert first == {TOKEN["1+"]}, "only this token still spells a plus sign"


def test_a_tokenizer_that_cannot_spell_the_language_is_refused():
    with pytest.raises(ValueError, match="cannot spell"):
        lift(SumGrammar(), [text.replace("=", "") for text in TEXTS], [STOP])


def test_a_stop_token_is_no_part_of_z_even_where_its_text_would_be():
    support = lift(SumGrammar(), TEXTS, [STOP, TOKEN["5"]])
    assert support.token_class[TOKEN["5"]] == -1
    assert not support.contains(spell("0", "+", "5", "=", "5"))


class Counter:
    """Any number of the same letter, every text a state of its own or all of them one."""

    start = 0

    def __init__(self, step):
        self._step = step

    def step(self, state, character):
        return state + self._step if character == "x" else None

    def by_tool(self, state, character):
        return False

    def may_stop(self, state):
        return True


@pytest.mark.parametrize("step", [0, 1])
def test_a_language_without_a_longest_text_is_refused(step):
    with pytest.raises(ValueError, match="bound"):
        lift(Counter(step), TEXTS, [STOP])


def test_a_cycle_is_refused():
    with pytest.raises(ValueError, match="cycle"):
        automaton([[1, -1], [0, 2], [-1, -1]], [0, 0, 1])


def test_a_dead_end_is_refused_by_name():
    with pytest.raises(ValueError, match="state 2 is a dead end"):
        automaton([[1, 2], [-1, -1], [-1, -1]], [0, 1, 0])


def test_a_dead_end_that_no_z_reaches_does_no_harm():
    support = automaton([[1, -1], [-1, -1], [2, 2]], [0, 1, 0])
    assert support.max_len == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stop_ids": np.array([1], dtype=np.int32)}, "stop_ids"),
        ({"stop_ids": np.array([], dtype=np.int32)}, "stop_ids"),
        ({"token_class": np.array([-1, 0, 2], dtype=np.int32)}, "class above the last"),
        ({"by_tool": np.zeros((2, 1), dtype=np.bool_)}, "do not describe the same states"),
    ],
)
def test_an_automaton_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        automaton([[1, -1], [-1, -1]], [0, 1], **changes)


def test_a_state_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="above the last"):
        automaton([[1, 7], [-1, -1]], [0, 1])


def test_a_language_of_the_empty_z_alone_is_refused():
    with pytest.raises(ValueError, match="no z except the empty one"):
        automaton([[-1, -1]], [1])


def test_an_empty_z_may_stop_where_the_start_may():
    support = automaton([[1, -1], [-1, -1]], [1, 1])
    assert support.may_be_empty and support.contains([])
    assert not SUPPORT.may_be_empty and not SUPPORT.contains([])


def test_the_prefixes_of_a_z_are_numbered_from_the_empty_one():
    z = spell("1", "+1", "=", "2")
    states = SUPPORT.states(z)
    assert states[0] == 0 and len(states) == len(z) + 1
    assert all(
        SUPPORT.next_state(int(here), int(token)) == after
        for (here, after), token in zip(pairwise(states), z, strict=True)
    )
