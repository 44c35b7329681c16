"""The tokens that spell a text in its place. Any tokenizer of transformers serves.

Owns the one way from text to ids, so that policy, reward, labels and tuning read alike: whoever
calls a tokenizer of its own gets what that one puts around a text.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gfn_ray.errors import UserError
from gfn_ray.trajectory import IntArray


def text_ids(tokenizer: Any, text: str) -> IntArray:
    """Token ids of a text from its beginning, with what the tokenizer puts before one, once.

    What it appends is left out: every text here goes on, by a z or by an answer.
    """
    before, ids = _put_before(tokenizer), _bare(tokenizer, text)
    if before == ids[: len(before)]:  # the text has it already, as a copied template may
        before = []
    return np.array(before + ids, dtype=np.int32)


def continuation_ids(tokenizer: Any, left: str, text: str) -> IntArray:
    """Token ids of `text` as it stands after `left`: some tokenizers start a text anew.

    Raises ValueError where the tokenizer joins the two in one token.
    """
    before, whole = text_ids(tokenizer, left), text_ids(tokenizer, left + text)
    if not np.array_equal(before, whole[: len(before)]):
        raise ValueError(f"the tokenizer joins {text[:20]!r} with the words before it")
    return whole[len(before) :]


def checked_continuation_ids(tokenizer: Any, left: str, text: str, otherwise: str) -> IntArray:
    """`continuation_ids` of a text that a task cannot do without.

    Raises UserError where the tokenizer joins the two. otherwise: what then cannot be, as in
    "a story cannot be cut between sentences".
    """
    try:
        return continuation_ids(tokenizer, left, text)
    except ValueError as error:
        raise UserError(f"{error}, so {otherwise}; choose another model.name") from None


def _put_before(tokenizer: Any) -> list[int]:
    """Ids before the first of a text, by a text that has some: of none, they could be its end."""
    bare = _bare(tokenizer, "a")
    marked: list[int] = tokenizer("a")["input_ids"]
    starts = range(len(marked) - len(bare) + 1)
    return next((marked[:i] for i in starts if marked[i : i + len(bare)] == bare), [])


def _bare(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
