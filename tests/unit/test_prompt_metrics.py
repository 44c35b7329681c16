"""pass@k and majority@k against counting every draw."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.tasks.prompts.metrics import majority_at_k, pass_at_k


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_correct_one(correct, data):
    k = data.draw(st.integers(1, len(correct)))
    draws = list(combinations(correct, k))
    share = sum(map(any, draws)) / len(draws)
    assert pass_at_k(len(correct), sum(correct), k) == pytest.approx(share)


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_k_takes_no_more_than_there_are(k):
    with pytest.raises(ValueError, match="between 1 and 4"):
        pass_at_k(4, 2, k)


@pytest.mark.parametrize(
    ("answers", "right", "k", "expected"),
    [
        (["7", "7", "8"], "7", 3, 1.0),
        (["7", "8", "8"], "7", 3, 0.0),
        (["7", "8"], "7", 2, 0.5),
        ([None, None, "7"], "7", 3, 1.0),
        ([None, None], "7", 2, 0.0),
        (["7", "8", "7", "7", "8"], "7", 2, 0.75),
    ],
    ids=["most", "fewest", "as-many", "no-answer-no-vote", "none-at-all", "two-runs-and-a-rest"],
)
def test_majority_at_k_is_the_share_of_runs_whose_commonest_answer_is_right(
    answers, right, k, expected
):
    assert majority_at_k(answers, [one == right for one in answers], k) == expected


def test_an_answer_that_was_judged_both_ways_counts_in_part():
    assert majority_at_k(["7", "7", "7", "8"], [True, False, False, True], 4) == pytest.approx(
        1 / 3
    )
