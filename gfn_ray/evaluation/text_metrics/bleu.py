"""N-gram overlap between a text and a reference: BLEU-4 and GLEU-4, from 0 to 1.

Per sentence, so that they can be averaged over samples and compared by query.
Both use sacrebleu's tokens (13a: punctuation is separated).
"""

from __future__ import annotations


def bleu4(text: str, reference: str) -> float:
    """Sentence BLEU-4 (Papineni et al. 2002) with sacrebleu's default, exponential smoothing.

    Orders for which a short text has no n-grams are left out, as sacrebleu does.
    """
    from sacrebleu import sentence_bleu

    return float(sentence_bleu(text, [reference]).score) / 100


def gleu4(text: str, reference: str) -> float:
    """GLEU-4 (Wu et al. 2016, section 8.1): the lower of precision and recall of 1- to 4-grams."""
    # Imported here, because it takes seconds.
    from nltk.translate.gleu_score import sentence_gleu
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenize = Tokenizer13a()
    words, true_words = tokenize(text).split(), tokenize(reference).split()
    return float(sentence_gleu([true_words], words, max_len=4)) if words else 0.0
