"""The support of a single line of text that ends with the line."""

from __future__ import annotations

from gfn_ray.errors import UserError
from gfn_ray.support import BoundedSupport
from gfn_ray.tasks.vocabulary import Vocabulary


def line_support(
    vocabulary: Vocabulary, min_len: int, max_len: int, noun: str, *, sentences: bool = True
) -> BoundedSupport:
    """Allows ordinary tokens, a word first, and a newline or end-of-sequence as terminator.

    noun: what z is called, as in "rationale". sentences: z may stop where a sentence ends; else
    after any token. Raises UserError if the tokenizer has no suitable tokens.
    """
    stops = vocabulary.line_stops()
    if not len(stops):
        raise UserError(
            "the tokenizer of model.name has neither a newline nor an end-of-sequence token, so z "
            "could never stop; choose another model"
        )
    content = vocabulary.plain
    try:
        return BoundedSupport(
            content=content,
            opening=content & vocabulary.word_start,
            enders=content & vocabulary.sentence_end if sentences else content,
            stop_ids=stops,
            min_len=min_len,
            max_len=max_len,
        )
    except ValueError as error:
        raise UserError(
            f"no {noun} can be written with the tokens of model.name and task.min_len "
            f"{min_len}, task.max_len {max_len}: {error}"
        ) from None
