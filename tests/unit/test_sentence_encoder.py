"""Sentence embeddings: meaning is near, padding is nothing, mistakes are named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gfn_ray.errors import UserError
from gfn_ray.models.sentence_encoder import SentenceEncoder, mean_pairwise_distance

CAT, KITTEN, BOND = (
    "The cat slept on the warm sofa.",
    "A kitten was napping on the couch.",
    "Bond yields rose by two basis points.",
)


@pytest.fixture(scope="module")
def encoder():
    return SentenceEncoder()


def test_a_paraphrase_is_nearer_than_another_topic(encoder):
    cat, kitten, bond = encoder.embed([CAT, KITTEN, BOND])
    assert cat @ kitten > 0.5 > cat @ bond


def test_a_text_has_one_embedding_whatever_stands_beside_it_in_the_batch(encoder):
    alone = encoder.embed([CAT])[0]
    beside = encoder.embed([CAT, " ".join([BOND] * 5)])[0]
    np.testing.assert_allclose(alone, beside, atol=1e-5)


def test_embeddings_have_length_one_and_no_texts_have_none(encoder):
    vectors = encoder.embed([CAT, "", "word " * 2000])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert encoder.embed([]).shape == (0, vectors.shape[1])


def test_token_embeddings_leave_out_padding_and_special_tokens(encoder):
    short, long = encoder.token_embeddings(["cat", "the cat slept"])
    assert (len(short), len(long)) == (1, 3)
    np.testing.assert_allclose(np.linalg.norm(long, axis=1), 1, atol=1e-5)


def test_an_encoder_that_cannot_be_loaded_is_named_with_its_setting(tmp_path):
    with pytest.raises(UserError, match=r"--encoder\.name: cannot load .*all-minilm-l6-v2"):
        SentenceEncoder(str(tmp_path))


def without_padding(tokenizer):
    from transformers import GPT2Config, GPT2Model

    tokenizer.pad_token = None
    return GPT2Model(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2))


def with_a_decoder(tokenizer):
    from transformers import T5Config, T5Model

    return T5Model(T5Config(vocab_size=len(tokenizer), d_model=16, d_ff=16, num_layers=1))


@pytest.mark.parametrize("make", [without_padding, with_a_decoder])
def test_a_model_that_embeds_no_texts_is_refused_at_once(make, tiny_dir, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    make(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"--encoder\.name: cannot .*a sentence encoder"):
        SentenceEncoder(str(tmp_path))


@given(st.integers(0, 2**32 - 1), st.integers(2, 8))
def test_pairwise_distance_is_the_mean_over_pairs(seed, count):
    vectors = np.random.default_rng(seed).normal(size=(count, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [1 - vectors[i] @ vectors[j] for i in range(count) for j in range(i)]
    assert mean_pairwise_distance(vectors) == pytest.approx(np.mean(pairs), abs=1e-5)


def test_equal_texts_and_a_single_text_have_no_diversity():
    one = np.ones((1, 4), np.float32) / 2
    assert mean_pairwise_distance(one) == 0.0
    assert mean_pairwise_distance(np.repeat(one, 3, axis=0)) == pytest.approx(0)
