"""The tokens that spell a text in its place. Any tokenizer of transformers serves."""

from __future__ import annotations

from typing import Any

import numpy as np

from gfn_ray.errors import UserError
from gfn_ray.trajectory import IntArray


def text_ids(tokenizer: Any, text: str) -> IntArray:
    """Token ids of a whole text, with what the tokenizer puts around one."""
    return np.array(tokenizer(text)["input_ids"], dtype=np.int32)


def continuation_ids(tokenizer: Any, left: str, text: str) -> IntArray:
    """Token ids of `text` as it stands after `left`: some tokenizers start a text anew.

    Raises ValueError where the tokenizer joins the two in one token.
    """
    before, whole = text_ids(tokenizer, left), text_ids(tokenizer, left + text)
    if not np.array_equal(before, whole[: len(before)]):
        raise ValueError(f"the tokenizer joins {text[:20]!r} with the words before it")
    return whole[len(before) :]


def cut_ids(tokenizer: Any, left: str, text: str, otherwise: str) -> IntArray:
    """`continuation_ids` of a text that a task cannot do without.

    Raises UserError where the tokenizer joins the two. otherwise: what then cannot be, as in
    "a story cannot be cut between sentences".
    """
    try:
        return continuation_ids(tokenizer, left, text)
    except ValueError as error:
        raise UserError(f"{error}, so {otherwise}; choose another model.name") from None
