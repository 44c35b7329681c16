"""Fixtures of the tests of the policy on the tiny model."""

import pytest

from makers import make_support
from policies import load


@pytest.fixture
def base(tiny_dir):
    """The tiny model, frozen."""
    return load(tiny_dir)


@pytest.fixture
def support(base):
    return make_support(vocab_size=base.config.vocab_size)
