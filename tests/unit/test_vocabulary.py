"""Token classes by text."""

import numpy as np
from transformers import AddedToken, AutoTokenizer

from gfn_ray.tasks.vocabulary import Vocabulary


def test_a_special_token_without_a_role_is_not_plain_text(tiny_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    tokenizer.add_tokens([AddedToken("<repo_name>", special=True)])
    token = tokenizer.convert_tokens_to_ids("<repo_name>")
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    assert vocabulary.texts[token] == ""
    assert not vocabulary.plain[token]


def test_blanks_line_breaks_and_half_characters_are_not_plain_text(tiny_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    for token in np.flatnonzero(vocabulary.plain):
        text = vocabulary.texts[token]
        assert text.strip() and text.isprintable()
        assert "\ufffd" not in text
