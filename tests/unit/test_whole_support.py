"""The support of whole answers: what ends z, and that no z is a dead end."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.support import WholeSupport
from gfn_ray.support.whole import pieces_of

END = 0
TEXTS = ["", "a", "b", "ab", "</", "/b", ">", "b>", "<", "\n", "a\n", " </b>", "x</b>y"]
STOPS = ("</b>", "\n")
FIRST, OPEN, CLOSED = range(3)
tokens = st.lists(st.integers(1, len(TEXTS) - 1), max_size=8)


def support_of(max_len=8, stops=STOPS):
    content = np.arange(len(TEXTS)) != END
    return WholeSupport(content, np.array([END]), max_len, stops, pieces_of(TEXTS, stops))


def text_of(z):
    return "".join(TEXTS[token] for token in z)


@given(tokens)
def test_only_stopping_is_legal_once_the_text_has_a_stop_string_or_z_is_longest(z):
    rows = support_of().mask_rows(z)
    for t, row in enumerate(rows):
        ended = t >= 8 or any(stop in text_of(z[:t]) for stop in STOPS)
        assert row == (CLOSED if ended else OPEN if t else FIRST)


@given(tokens)
def test_z_is_inside_exactly_where_it_could_be_written_token_by_token(z):
    support = support_of(max_len=5)
    masks, rows = support.masks, support.mask_rows(z)
    legal = all(masks[row, token] for row, token in zip(rows, z, strict=False))
    assert support.contains(z) == (0 < len(z) <= 5 and legal and bool(masks[rows[-1], END]))


@given(tokens, st.integers(1, 8))
def test_every_z_can_be_ended(z, max_len):
    support = support_of(max_len)
    assert support.masks[support.mask_rows(z)].any(axis=1).all()
    assert not support.masks[FIRST, END] and support.masks[CLOSED].sum() == 1


@given(tokens)
def test_z_as_a_whole_is_the_one_node(z):
    assert support_of().terminable(z).tolist() == [False] * len(z) + [len(z) > 0]
    assert support_of().must_stop(z) == (support_of().mask_rows(z)[-1] == CLOSED)


def test_without_stop_strings_no_token_needs_its_text():
    assert pieces_of(TEXTS, ()) == {}
    assert support_of(stops=()).mask_rows([9, 9]).tolist() == [FIRST, OPEN, OPEN]


def test_tokens_that_no_stop_string_runs_through_are_left_out():
    assert {TEXTS[token] for token in pieces_of(TEXTS, ("</b>",))} == set(TEXTS) - {
        "", "a", "ab", "\n", "a\n",
    }  # fmt: skip


def test_numbers_that_are_no_tokens_are_outside():
    assert not support_of().contains([1, 99]) and not support_of().contains([-1])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [({"max_len": 0}, "max_len"), ({"stop_ids": np.array([1])}, "stop_ids"),
     ({"content": np.zeros(3, dtype=bool)}, "content")],
)  # fmt: skip
def test_what_could_hold_no_z_is_refused(changes, complaint):
    given = {"content": np.array([False, True, True]), "stop_ids": np.array([0]), "max_len": 3}
    with pytest.raises(ValueError, match=complaint):
        WholeSupport(**{**given, **changes})
