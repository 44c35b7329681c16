"""Fixtures shared by unit and integration tests."""

import os

# Two workers share two cores: threads that wait must sleep, and torch, once it is loaded, may have
# one each. Jobs that are started inherit the first; actors have threads of their own.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from testing.examples import register_profiles
from testing.tiny import tiny_model

register_profiles()


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
    """A 2-layer random Llama with its tokenizer, on disk; every engine can load it."""
    return tiny_model(tmp_path_factory.mktemp("tiny"))
