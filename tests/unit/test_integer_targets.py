"""Integer targets against scipy's distributions, truncated and renormalised."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logsumexp

from gfn_ray.errors import UserError
from gfn_ray.tasks.random_number.targets import MODES, log_target

SHAPED = ("binomial", "geometric", "poisson", "gaussian")


@st.composite
def ranges_with_mean(draw):
    low = draw(st.integers(-500, 500))
    high = low + draw(st.integers(1, 300))
    return low, high, low + draw(st.floats(0.001, 0.999)) * (high - low)


def oracle(kind, low, high, mean, std):
    """log p [high - low + 1] by scipy."""
    k, m, n = np.arange(high - low + 1), mean - low, high - low
    if kind == "binomial":
        log_p = stats.binom.logpmf(k, n, m / n)
    elif kind == "geometric":
        log_p = stats.geom.logpmf(k, 1 / (1 + m), loc=-1)
    elif kind == "poisson":
        log_p = stats.poisson.logpmf(k, m)
    else:
        log_p = stats.norm.logpdf(k, m, std)
    return log_p - logsumexp(log_p)


def moments(log_p, low):
    values = low + np.arange(len(log_p))
    mean = np.exp(log_p) @ values
    return mean, math.sqrt(np.exp(log_p) @ (values - mean) ** 2)


@given(st.sampled_from(SHAPED), ranges_with_mean(), st.floats(0.1, 1000))
def test_agrees_with_scipy(kind, settings, std):
    low, high, mean = settings
    std = std if kind == "gaussian" else None
    log_p = log_target(kind, low, high, mean=mean, std=std)
    expected = oracle(kind, low, high, mean, std)
    assert log_p.shape == (high - low + 1,)
    assert np.isfinite(log_p).all()
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-12)
    # Logarithms of the order of a thousand leave an error of 1e-12 in p, relatively.
    np.testing.assert_allclose(np.exp(log_p), np.exp(expected), atol=1e-12)
    np.testing.assert_allclose(log_p, expected, rtol=1e-9, atol=1e-9)


@given(st.integers(-500, 500), st.integers(1, 1000))
def test_uniform(low, span):
    np.testing.assert_allclose(log_target("uniform", low, low + span), -math.log(span + 1))


@pytest.mark.parametrize(
    ("kind", "mean", "std"),
    [("binomial", 50, 5), ("poisson", 50, math.sqrt(50)), ("gaussian", 50, 100 / 6)],
)
def test_defaults_are_centred(kind, mean, std):
    got = moments(log_target(kind, 0, 100), 0)
    # The gaussian loses the tails beyond three standard deviations, the poisson far ones.
    assert got == pytest.approx((mean, std), rel=0.02)


def test_modes_are_separate_and_have_equal_mass():
    p = np.exp(log_target("modes", 0, 100))
    peaks = [k for k in range(1, 100) if p[k] > p[k - 1] and p[k] >= p[k + 1]]
    assert len(peaks) == MODES
    for peak in peaks:
        assert p[max(0, peak - 8) : peak + 9].sum() == pytest.approx(1 / MODES, rel=0.05)
    assert p.min() < 1e-3 * p.max()


def test_default_geometric_falls_off_from_low():
    log_p = log_target("geometric", -10, 90)
    np.testing.assert_allclose(np.diff(log_p), math.log(20 / 21))


@given(ranges_with_mean())
def test_binomial_keeps_its_mean_and_the_range_shifts_it(settings):
    low, high, mean = settings
    log_p = log_target("binomial", low, high, mean=mean)
    assert moments(log_p, low)[0] == pytest.approx(mean, abs=1e-8)
    shifted = log_target("binomial", low + 7, high + 7, mean=mean + 7)
    np.testing.assert_allclose(log_p, shifted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["uniform", *SHAPED])
def test_two_integers_suffice(kind):
    assert np.exp(log_target(kind, 3, 4)).sum() == pytest.approx(1)


def test_means_next_to_an_end_stay_finite():
    for mean in (5e-324, math.nextafter(1000, 0)):
        for kind in SHAPED:
            assert np.isfinite(log_target(kind, 0, 1000, mean=mean)).all()


@pytest.mark.parametrize("kind", SHAPED)
@pytest.mark.parametrize("mean", [-1.0, 0.0, 100.0, 101.0, math.nan, math.inf])
def test_a_mean_outside_the_range_is_refused(kind, mean):
    with pytest.raises(UserError, match=r"task\.mean .* task\.low \(0\) and task\.high \(100\)"):
        log_target(kind, 0, 100, mean=mean)


@pytest.mark.parametrize("std", [0.0, -1.0, 0.01, math.nan, math.inf])
def test_a_std_that_makes_no_distribution_is_refused(std):
    with pytest.raises(UserError, match=r"task\.std must be finite and at least 0\.1"):
        log_target("gaussian", 0, 100, std=std)


def test_settings_that_the_target_does_not_use_are_refused():
    with pytest.raises(UserError, match=r"task\.mean .* task\.target 'uniform'"):
        log_target("uniform", 0, 100, mean=50)
    for kind in ("uniform", "binomial", "geometric", "poisson"):
        with pytest.raises(UserError, match=rf"task\.std .* task\.target '{kind}'"):
            log_target(kind, 0, 100, std=5)


@pytest.mark.parametrize(("low", "high"), [(5, 5), (6, 5)])
def test_an_empty_range_is_refused(low, high):
    with pytest.raises(UserError, match=r"task\.low .* task\.high"):
        log_target("uniform", low, high)
