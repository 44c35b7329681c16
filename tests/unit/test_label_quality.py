"""Averaged predictions and their measures against definitions and scikit-learn's formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gfn_ray.evaluation.label_metrics import (
    calibration_error,
    content_free_offset,
    halving_offset,
    label_quality,
    log_odds,
    model_average,
    probabilities,
)

ODDS = st.floats(-30, 30)
LOGITS = arrays(np.float64, st.tuples(st.integers(1, 6), st.just(2)), elements=ODDS)
ROUNDED = st.lists(st.tuples(st.integers(-4, 4), st.integers(0, 1)), min_size=2, max_size=30)


def normalised(logits):
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


@given(LOGITS)
def test_an_average_is_a_distribution_between_its_parts(logits):
    log_p = normalised(logits)
    average = np.exp(model_average(log_p))
    assert average.sum() == pytest.approx(1)
    assert np.all(np.exp(log_p).min(axis=0) - 1e-12 <= average)
    assert np.all(average <= np.exp(log_p).max(axis=0) + 1e-12)
    assert average == pytest.approx(np.exp(log_p).mean(axis=0), abs=1e-12)


@given(LOGITS)
def test_one_sample_averages_to_itself(logits):
    log_p = normalised(logits)[:1]
    assert model_average(log_p) == pytest.approx(log_p[0])


@given(ROUNDED)
def test_quality_equals_the_textbook_formulas(rows):
    odds, truth = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows])
    found = label_quality(odds, truth)
    p = 1 / (1 + np.exp(-odds))
    assert found["log_loss"] == pytest.approx(
        -np.mean(truth * np.log(p) + (1 - truth) * np.log(1 - p))
    )
    ones, zeros = odds[truth == 1], odds[truth == 0]
    pairs = [(a > b) + 0.5 * (a == b) for a in ones for b in zeros]
    assert found.get("auc") == (pytest.approx(np.mean(pairs)) if pairs else None)
    right = [0.5 if o == 0 else float((o > 0) == (t == 1)) for o, t in rows]
    assert found["accuracy"] == pytest.approx(np.mean(right))


def test_quality_equals_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    odds, truth = rng.normal(0, 2, 300), rng.integers(0, 2, 300)
    found = label_quality(odds, truth)
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(truth, odds))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(truth, probabilities(odds)))
    assert found["accuracy"] == metrics.accuracy_score(truth, odds > 0)


def test_calibration_error_of_a_hand_made_case():
    """Confidence .8 four times, three right; .95 once, wrong."""
    p = np.array([0.8, 0.2, 0.8, 0.8, 0.95])
    truth = np.array([1, 0, 1, 0, 0])
    assert calibration_error(p, truth) == pytest.approx((4 * 0.05 + 1 * 0.95) / 5)


def test_calibration_error_vanishes_where_confidence_is_the_share_of_right_labels():
    p = np.full(1000, 0.75)
    truth = (np.arange(1000) % 4 > 0).astype(int)
    assert calibration_error(p, truth) == pytest.approx(0)
    assert calibration_error(np.array([1.0, 0.0]), np.array([1, 0])) == pytest.approx(0)


def test_undecided_is_half_right_and_so_well_calibrated():
    assert calibration_error(np.full(3, 0.5), np.array([1, 1, 0])) == 0


# Apart by more than rounding: there is no number between neighbours to halve them at.
APART = ODDS.map(lambda odds: round(odds, 6))


@given(st.lists(APART, min_size=1, max_size=20, unique=True))
def test_the_halving_offset_leaves_as_many_above_as_below(odds):
    corrected = np.array(odds) - halving_offset(np.array(odds))
    assert (corrected > 0).sum() == (corrected < 0).sum()


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=5))
def test_content_free_inputs_are_undecided_on_average_once_corrected(odds):
    offset = content_free_offset(np.array(odds))
    assert 1 / (1 + np.exp(-offset)) == pytest.approx(probabilities(np.array(odds)).mean())


def test_extreme_log_odds_stay_finite():
    odds = log_odds([np.array([-2000.0, 0.0]), np.array([0.0, -2000.0])])
    found = label_quality(odds, np.array([0, 1]))
    assert all(np.isfinite(list(found.values())))
    assert found["log_loss"] == pytest.approx(2000)
