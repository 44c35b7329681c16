"""Classes of tokens by their text, for tasks that build a support, and a check of supports."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from gfn_ray.errors import UserError
from gfn_ray.formatting import count
from gfn_ray.support import Support
from gfn_ray.trajectory import BoolArray, IntArray

_SENTENCE_END = re.compile(r"[.!?][\"')\]]*$")


def writable(tokenizer: Any, vocab_size: int) -> BoolArray:
    """Returns a mask [V] of the tokens that stand for text, the only ones z may contain.

    It excludes ids without a token (models pad their logits, and vocabularies have holes) and
    special tokens.
    """
    found = np.zeros(vocab_size, dtype=np.bool_)
    found[[token for token in tokenizer.get_vocab().values() if token < vocab_size]] = True
    # all_special_ids lists only those with a role; there can be others.
    added = tokenizer.added_tokens_decoder
    special = {token for token, entry in added.items() if entry.special}
    special.update(tokenizer.all_special_ids)
    found[[token for token in special if token < vocab_size]] = False
    return found


def check_support(name: str, support: Support, tokenizer: Any, vocab_size: int) -> None:
    """Raises UserError if z of a task may contain ids that stand for no text.

    name: the task's. vocab_size: length of the model's logits, and of the support's masks.
    """
    content: BoolArray = np.any(support.masks, axis=0)
    content[support.stop_ids] = False
    wrong = np.flatnonzero(content & ~writable(tokenizer, vocab_size))
    if len(wrong):
        token = tokenizer.convert_ids_to_tokens(int(wrong[0]))
        is_what = "which no token has" if token is None else f"the special token {token!r}"
        raise UserError(
            f"the support of task {name} allows {count(len(wrong), 'id')} that stand for no text, "
            f"such as {wrong[0]}, {is_what}; leave out all but Vocabulary.writable"
        )


class Vocabulary:
    """The text of every token id, and masks [V] over them.

    vocab_size: length of the model's logits; special tokens, and ids that the tokenizer lacks,
    have no text.
    """

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        self.writable = writable(tokenizer, vocab_size)
        known = np.flatnonzero(self.writable).tolist()
        # Decoded after an anchor: some tokenizers drop a leading space at the start of a text.
        anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1]
        pairs = [[anchor, token] for token in known]
        skipped = len(tokenizer.decode([anchor]))
        decoded = tokenizer.batch_decode(pairs, clean_up_tokenization_spaces=False)
        self.texts: list[str] = [""] * vocab_size
        for token, text in zip(known, decoded, strict=True):
            self.texts[token] = text[skipped:]
        eos = tokenizer.eos_token_id
        self._end_of_text = [] if eos is None or eos >= vocab_size else [int(eos)]

    @property
    def plain(self) -> BoolArray:
        """Tokens of printable text: no control characters, partial characters or blanks."""
        return self._where(
            lambda text: bool(text.strip()) and text.isprintable() and "\ufffd" not in text
        )

    @property
    def word_start(self) -> BoolArray:
        """Tokens that begin a word after exactly one space."""
        return self._where(lambda text: text[:1] == " " and text[1:2].isalnum())

    @property
    def sentence_end(self) -> BoolArray:
        """Tokens that end a sentence, possibly with closing quotes after it."""
        return self._where(lambda text: bool(_SENTENCE_END.search(text)))

    def line_ends(self) -> IntArray:
        """Returns the ids of tokens that consist of line breaks only."""
        found = self._where(lambda text: bool(text) and not text.strip("\n"))
        return np.flatnonzero(found).astype(np.int32)

    def line_stops(self) -> IntArray:
        """Returns the ids that end a one-line z, ascending: line breaks and end-of-sequence."""
        return np.union1d(self.line_ends(), np.array(self._end_of_text, dtype=np.int32))

    def full_stops(self) -> IntArray:
        """Returns the ids of tokens that are just a full stop."""
        return np.flatnonzero(self._where(lambda text: text == ".")).astype(np.int32)

    def _where(self, test: Any) -> BoolArray:
        return np.array([test(text) for text in self.texts], dtype=np.bool_)
