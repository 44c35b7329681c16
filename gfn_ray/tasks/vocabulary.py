"""Classes of tokens by their text, for tasks that build a support."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from gfn_ray.models.spelling import continuation_ids
from gfn_ray.trajectory import BoolArray, IntArray

__all__ = ["Vocabulary", "continuation_ids"]

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*$")


class Vocabulary:
    """The text of every token id, and masks [V] over them.

    vocab_size: length of the model's logits; ids the tokenizer lacks have no text.
    """

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        known = min(len(tokenizer), vocab_size)
        # After an anchor: at the start of a text, some tokenizers drop a token's leading space.
        anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1]
        pairs = [[anchor, token] for token in range(known)]
        skipped = len(tokenizer.decode([anchor]))
        decoded = tokenizer.batch_decode(pairs, clean_up_tokenization_spaces=False)
        texts = [text[skipped:] for text in decoded]
        # all_special_ids lists only those with a role; the others are special all the same.
        added = tokenizer.added_tokens_decoder
        special = {token for token, entry in added.items() if entry.special}
        for token in special.union(tokenizer.all_special_ids):
            if token < known:
                texts[token] = ""
        self.texts: list[str] = texts + [""] * (vocab_size - known)

    @property
    def plain(self) -> BoolArray:
        """Tokens of printable text: no control characters, half characters or blanks."""
        return self._where(
            lambda text: bool(text.strip()) and text.isprintable() and "\ufffd" not in text
        )

    @property
    def word_start(self) -> BoolArray:
        """Tokens that begin a word after exactly one space."""
        return self._where(lambda text: text[:1] == " " and text[1:2].isalnum())

    @property
    def sentence_end(self) -> BoolArray:
        """Tokens whose last character, closing quotes aside, ends a sentence."""
        return self._where(lambda text: bool(_SENTENCE_END.search(text)))

    def line_ends(self) -> IntArray:
        """Ids of tokens that are line breaks and nothing else."""
        found = self._where(lambda text: bool(text) and not text.strip("\n"))
        return np.flatnonzero(found).astype(np.int32)

    def full_stops(self) -> IntArray:
        """Ids of tokens that are a full stop and nothing else."""
        return np.flatnonzero(self._where(lambda text: text == ".")).astype(np.int32)

    def _where(self, test: Any) -> BoolArray:
        return np.array([test(text) for text in self.texts], dtype=np.bool_)
