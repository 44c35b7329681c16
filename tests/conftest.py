"""Fixtures shared by unit and integration tests."""

import pytest
from hypothesis import settings

from tiny import tiny_model

# How long an example takes says how busy the machine is.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
    """A 2-layer random Llama with its tokenizer, on disk; every engine can load it."""
    return tiny_model(tmp_path_factory.mktemp("tiny"))
