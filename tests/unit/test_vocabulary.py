"""Token classes by text."""

from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerFast

from gfn_ray.config import EvalConfig
from gfn_ray.errors import UserError
from gfn_ray.tasks.catalog import BUILT_IN
from gfn_ray.tasks.random_number.config import RandomNumberConfig, RandomNumberJob
from gfn_ray.tasks.random_number.task import RandomNumberTask
from gfn_ray.tasks.vocabulary import Vocabulary, check_support, writable


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


def test_holes_of_a_vocabulary_stand_for_no_text_and_what_lies_behind_them_does():
    model = models.WordLevel({"a": 0, "b": 1, "far": 9}, unk_token="a")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
    vocabulary = Vocabulary(tokenizer, 12)
    assert np.flatnonzero(vocabulary.writable).tolist() == [0, 1, 9]
    assert [token for token, text in enumerate(vocabulary.texts) if text] == [0, 1, 9]
    assert np.flatnonzero(writable(tokenizer, 5)).tolist() == [0, 1]


PADDING = 24  # as Qwen's: the model has logits that no token stands behind


@pytest.fixture(scope="module")
def with_specials(tiny_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    tokenizer.add_tokens([AddedToken("<repo_name>", special=True)])
    return tokenizer


@pytest.mark.parametrize("name", [*BUILT_IN, "random_number, full"])
def test_no_task_lets_z_contain_a_special_token_or_an_id_without_one(name, with_specials):
    name, *full = name.split(", ")
    kind = BUILT_IN[name]()
    task = {"task": RandomNumberConfig(support="full")} if full else {}
    size = len(with_specials) + PADDING
    support = kind(kind.job(**task)).load(with_specials, size).support
    assert support.vocab_size == size
    content = support.masks.any(axis=0)
    content[support.stop_ids] = False
    assert content.any()
    assert not content[-PADDING:].any()
    assert not content[with_specials.convert_tokens_to_ids("<repo_name>")]
    assert not content[with_specials.all_special_ids].any()
    check_support(name, support, with_specials, size)


@pytest.mark.parametrize(
    ("token", "named"),
    [(-1, "which no token has"), (0, "the special token '<|bos|>'")],
)
def test_a_support_that_admits_what_stands_for_no_text_is_refused(token, named, with_specials):
    size = len(with_specials) + PADDING
    job = RandomNumberJob(task=RandomNumberConfig(support="full"), eval=EvalConfig(queries=1))
    support = RandomNumberTask(job).support(with_specials, size)
    content = support.content.copy()
    content[token] = True
    wrong = replace(support, content=content)
    with pytest.raises(
        UserError, match=rf"task mine allows 1 id .*such as \d+, {named}; .*writable"
    ):
        check_support("mine", wrong, with_specials, size)
