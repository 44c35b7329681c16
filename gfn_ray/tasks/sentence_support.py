"""The support of a sentence that ends with a full stop.

The full stop terminates z, so a z that contains one, or whose full stop has another meaning,
would be scored as a sentence without being one. Source of the idea: Hu et al. 2024, section 4.1,
whose list of such tokens is for GPT-2's tokenizer; this one goes by text.
"""

from __future__ import annotations

import re

import numpy as np

from gfn_ray.errors import UserError
from gfn_ray.support import BoundedSupport
from gfn_ray.tasks.vocabulary import Vocabulary
from gfn_ray.trajectory import BoolArray

_STEMS = (
    "Mr Mrs Ms Dr Prof Rev Hon Fr St Mt Ft Jr Sr Gen Col Maj Capt Lt Sgt Sen Rep Gov Inc Ltd "
    "Corp Co Bros Nos vs etc al cf eg ie approx dept est Fig fig Vol vol Ave Blvd Rd Jan Feb Mar "
    "Apr Jun Jul Aug Sep Sept Oct Nov Dec"
)

# Why a token is outside the support, and the pattern of such texts.
OUTSIDE: dict[str, str] = {
    "it ends a sentence, or carries a full stop: abbreviations, decimals, domains, dots": r"[.!?…]",
    "it opens or closes a quotation; the apostrophes of 's and n't stay": (
        r"[\"“”„«»`´‘]|\s['’]|['’](?![A-Za-z])"
    ),
    "it breaks the line or is a run of blanks": r"[\n\r\t]|\s\s",
    "it is a piece of an address": r"(?i)https?|www|//|:/|@|\\",
    "it is markup": r"[<>{}\[\]|_^~*#=]",
}

# Why z may contain a token but not stop after it: a full stop there would not end a sentence.
NOT_LAST: dict[str, str] = {
    "it is the stem of an abbreviation": rf"^ (?:{'|'.join(_STEMS.split())})$",
    "it is an initial, as in U. S.": r"^ (?:[B-HJ-Z]|[b-z])$",
    "it ends in a comma, a dash, an opening bracket or the like": r"(?:[^\w)%]|_|^)$",
}

_OUTSIDE, _NOT_LAST = (
    [re.compile(pattern) for pattern in table.values()] for table in (OUTSIDE, NOT_LAST)
)


def sentence_support(vocabulary: Vocabulary, min_len: int, max_len: int) -> BoundedSupport:
    """Allows one sentence without its full stop; any token that is a full stop terminates it.

    z opens with a word after one space. It may stop after any token that ends in a letter or
    digit, except NOT_LAST; log p(full stop) tells whether the word is complete.
    Raises UserError if the tokenizer has no suitable tokens.
    """
    stops = vocabulary.full_stops()
    if not len(stops):
        raise UserError(
            "the tokenizer of model.name has no token for a full stop, so z could never end; "
            "choose another model"
        )
    content = vocabulary.plain & ~_matching(vocabulary, _OUTSIDE)
    try:
        return BoundedSupport(
            content=content,
            opening=content & vocabulary.word_start,
            enders=content & ~_matching(vocabulary, _NOT_LAST),
            stop_ids=stops,
            min_len=min_len,
            max_len=max_len,
        )
    except ValueError as error:
        raise UserError(
            f"no sentence can be written with the tokens of model.name and task.min_len "
            f"{min_len}, task.max_len {max_len}: {error}"
        ) from None


def _matching(vocabulary: Vocabulary, patterns: list[re.Pattern[str]]) -> BoolArray:
    return np.array(
        [any(pattern.search(text) for pattern in patterns) for text in vocabulary.texts],
        dtype=np.bool_,
    )
