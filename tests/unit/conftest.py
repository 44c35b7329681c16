"""Fixtures of the tests of the policy on the tiny model, and a run of it to be spoiled."""

import pytest

from testing.good_run import copy_run, write_run
from testing.makers import make_support
from testing.policies import load


@pytest.fixture
def base(tiny_dir):
    """The tiny model, frozen."""
    return load(tiny_dir)


@pytest.fixture
def support(base):
    return make_support(vocab_size=base.config.vocab_size)


@pytest.fixture(scope="session")
def good_home(tiny_dir, tmp_path_factory):
    """A home with an interrupted run in it."""
    home = tmp_path_factory.mktemp("good")
    write_run(tiny_dir, home)
    return home


@pytest.fixture
def home(good_home, tmp_path, monkeypatch):
    """A copy to spoil. The cache is elsewhere, and outputs without a name go there, too."""
    monkeypatch.setenv("GFN_RAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GFN_RAY_HOME", str(tmp_path / "home"))
    return copy_run(good_home, tmp_path / "home")
