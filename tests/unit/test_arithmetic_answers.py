"""Arithmetic: what a chain answers, and what many of them answer together."""

import pytest

from gfn_ray.tasks.arithmetic.answers import answer_of, majority_share


@pytest.mark.parametrize(
    ("text", "answer"),
    [(" 6 - 4 = 2", "2"), (" 6 - 4 = 2, 2 - 8 = -6", "-6"), (" 6 - 4", None), ("", None)],
)
def test_a_rationale_answers_with_its_last_value(text, answer):
    assert answer_of(text) == answer


@pytest.mark.parametrize(
    ("answers", "share"),
    [
        (["2", "2", "3"], 1),
        (["3", "3", "2"], 0),
        (["2", "3"], 1 / 2),
        (["2", "3", "4", None, None], 1 / 3),
        ([None, None, "2"], 1),
        ([None], 0),
    ],
)
def test_a_tie_is_won_as_often_as_a_fair_draw_wins_it(answers, share):
    assert majority_share(answers, "2") == pytest.approx(share)
