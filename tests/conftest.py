"""Fixtures shared by unit and integration tests."""

import pytest

from tiny import tiny_model


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory):
    """A 2-layer random Llama with its tokenizer, on disk; every engine can load it."""
    return tiny_model(tmp_path_factory.mktemp("tiny"))
