"""Metrics against the true text: the libraries', and BERTScore against brute force."""

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.gleu_score import sentence_gleu

from gfn_ray.evaluation.text_metrics.bert_score import BertScore, bert_score
from gfn_ray.evaluation.text_metrics.bleu import bleu4, gleu4
from gfn_ray.models.sentence_encoder import SentenceEncoder

TRUE = "She brought him a warm pie, made from his share."
TEXTS = [TRUE, "She brought him a pie.", "He ran.", "a warm pie made from his", ""]


def unit_rows(rng, count, width=5):
    rows = rng.normal(size=(count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@st.composite
def token_pairs(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return unit_rows(rng, draw(st.integers(1, 6))), unit_rows(rng, draw(st.integers(1, 6)))


@pytest.mark.parametrize("text", TEXTS)
def test_bleu_is_sacrebleus_sentence_bleu(text):
    assert bleu4(text, TRUE) == pytest.approx(sacrebleu.sentence_bleu(text, [TRUE]).score / 100)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TRUE, "She brought him a warm pie , made from his share ."),
        ("She brought him a pie.", "She brought him a pie ."),
        ("He ran.", "He ran ."),
    ],
)
def test_gleu_is_nltks_on_words_with_punctuation_apart(text, words):
    true = ["She", "brought", "him", "a", "warm", "pie", ",", "made", "from", "his", "share", "."]
    assert gleu4(text, TRUE) == pytest.approx(sentence_gleu([true], words.split(), max_len=4))


def test_the_true_text_itself_scores_one_and_no_text_zero():
    assert (bleu4(TRUE, TRUE), gleu4(TRUE, TRUE)) == pytest.approx((1, 1))
    assert bleu4("", TRUE) == gleu4("", TRUE) == 0


@given(token_pairs())
def test_bert_score_is_the_greedy_matching_of_every_token(pair):
    candidate, reference = pair

    def matched(ones, others):
        return sum(max(float(np.dot(a, b)) for b in others) for a in ones) / len(ones)

    found = bert_score(candidate, reference)
    precision, recall = matched(candidate, reference), matched(reference, candidate)
    assert (found.precision, found.recall) == pytest.approx((precision, recall), abs=1e-6)


@given(token_pairs())
def test_swapping_the_texts_swaps_precision_and_recall(pair):
    there, back = bert_score(*pair), bert_score(*pair[::-1])
    assert (there.precision, there.recall) == (back.recall, back.precision)
    assert there.f1 == pytest.approx(back.f1)


@given(token_pairs())
def test_equal_texts_score_one(pair):
    assert bert_score(pair[0], pair[0]).f1 == pytest.approx(1, abs=1e-6)


def test_a_text_without_tokens_scores_zero():
    tokens = unit_rows(np.random.default_rng(0), 3)
    assert bert_score(tokens[:0], tokens) == BertScore(0.0, 0.0)
    assert BertScore(0.0, 0.0).f1 == 0


def test_with_an_encoder_a_paraphrase_scores_above_another_sentence():
    encoder = SentenceEncoder()
    true, near, far = encoder.token_embeddings(
        ["She gave him a warm cake.", "She handed him a hot pie.", "The train was late again."]
    )
    assert bert_score(near, true).f1 > bert_score(far, true).f1 + 0.1
