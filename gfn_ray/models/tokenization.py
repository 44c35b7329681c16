"""The tokens of a text in its context, for any tokenizer of transformers.

All texts become ids here, so that policy, reward, labels and tuning tokenize alike. A direct call
of a tokenizer would add its own tokens around a text.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gfn_ray.errors import UserError
from gfn_ray.trajectory import IntArray


def text_ids(tokenizer: Any, text: str) -> IntArray:
    """Returns the ids of a text from its beginning, with the tokenizer's prefix (BOS), once.

    Appended tokens are left out, because every text here is continued by a z or an answer.
    """
    before, ids = _put_before(tokenizer), _bare(tokenizer, text)
    if before == ids[: len(before)]:  # the text may contain it, as a copied template does
        before = []
    return np.array(before + ids, dtype=np.int32)


def continuation_ids(tokenizer: Any, left: str, text: str) -> IntArray:
    """Returns the ids of `text` after `left`, which can differ from those of `text` alone.

    Raises ValueError if the tokenizer joins the two in one token.
    """
    before, whole = text_ids(tokenizer, left), text_ids(tokenizer, left + text)
    if not np.array_equal(before, whole[: len(before)]):
        raise ValueError(f"the tokenizer joins {text[:20]!r} with the words before it")
    return whole[len(before) :]


def checked_continuation_ids(tokenizer: Any, left: str, text: str, otherwise: str) -> IntArray:
    """Returns `continuation_ids` of a text that a task requires.

    Raises UserError if the tokenizer joins the two. otherwise: the consequence, as in
    "a story cannot be cut between sentences".
    """
    try:
        return continuation_ids(tokenizer, left, text)
    except ValueError as error:
        raise UserError(f"{error}, so {otherwise}; choose another model.name") from None


def _put_before(tokenizer: Any) -> list[int]:
    """Returns the ids put before a text, found with a non-empty one: else they may follow it."""
    bare = _bare(tokenizer, "a")
    marked: list[int] = tokenizer("a")["input_ids"]
    starts = range(len(marked) - len(bare) + 1)
    return next((marked[:i] for i in starts if marked[i : i + len(bare)] == bare), [])


def _bare(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
