"""Fixtures shared by unit and integration tests."""

import pytest
from hypothesis import settings

from tiny import tiny_model

# The same examples everywhere, so that a test fails by a change and not by a draw; how long one
# takes says how busy the machine is.
settings.register_profile("same everywhere", deadline=None, derandomize=True)
settings.load_profile("same everywhere")


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
    """A 2-layer random Llama with its tokenizer, on disk; every engine can load it."""
    return tiny_model(tmp_path_factory.mktemp("tiny"))
