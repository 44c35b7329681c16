"""The tokens that spell a text in its place. Any tokenizer of transformers serves."""

from __future__ import annotations

from typing import Any

import numpy as np

from gfn_ray.trajectory import IntArray


def continuation_ids(tokenizer: Any, left: str, text: str) -> IntArray:
    """Token ids of `text` as it stands after `left`: some tokenizers start a text anew.

    Raises ValueError where the tokenizer joins the two in one token.
    """
    before, whole = (
        np.array(tokenizer(part)["input_ids"], dtype=np.int32) for part in (left, left + text)
    )
    if not np.array_equal(before, whole[: len(before)]):
        raise ValueError(f"the tokenizer joins {text[:20]!r} with the words before it")
    return whole[len(before) :]
