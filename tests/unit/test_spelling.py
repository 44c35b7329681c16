"""The tokens of a text in its place, on the tiny model's tokenizer."""

import pytest
from transformers import AutoTokenizer

from gfn_ray.errors import UserError
from gfn_ray.models.spelling import continuation_ids, cut_ids, text_ids


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


def test_a_text_and_its_continuation_are_the_tokens_of_both(tokenizer):
    left, text = "He went home", " and slept."
    parts = [*text_ids(tokenizer, left), *continuation_ids(tokenizer, left, text)]
    assert parts == text_ids(tokenizer, left + text).tolist()


def test_a_text_that_cannot_be_cut_off_is_refused_by_what_it_prevents(tokenizer):
    with pytest.raises(UserError, match=r"'ent home' .*, so a story cannot end; .* model\.name"):
        cut_ids(tokenizer, "He w", "ent home", "a story cannot end")
