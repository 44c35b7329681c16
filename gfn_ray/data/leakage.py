"""Keeps test data out of training data.

Defines which rows have the same content, and reports the rows left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import TypeVar

from gfn_ray.errors import UserError
from gfn_ray.formatting import count

RowT = TypeVar("RowT")
Content = Callable[[RowT], Hashable]


def same_text(text: str) -> str:
    """Returns a key that is equal for texts that differ only in white space or case."""
    return " ".join(text.split()).casefold()


def without_leaks(
    part: str, rows: Sequence[RowT], others: Collection[RowT], content: Content[RowT], noun: str
) -> tuple[list[RowT], tuple[str, ...]]:
    """Returns the rows of a part whose content is not among the others, and a note on the rest.
    noun: what a row is, as in "story"."""
    known = set(map(content, others))
    kept = [row for row in rows if content(row) not in known]
    if not (left_out := len(rows) - len(kept)):
        return kept, ()
    stand = "is" if left_out == 1 else "are"
    return kept, (
        f"{left_out:,} of {count(len(rows), noun)} in the {part} data {stand} in other data of the "
        f"run, too: left out of the {part} data",
    )


def kept_apart(
    rows: Sequence[RowT], others: Collection[RowT], content: Content[RowT], noun: str
) -> tuple[list[RowT], tuple[str, ...]]:
    """The same for a separate test source. Raises UserError if nothing of it is left."""
    kept, notes = without_leaks("test", rows, others, content, noun)
    if not kept:
        raise UserError(
            f"the test has {count(len(rows), noun)}, and the other data contain all of them; give "
            "another test by --data.test-path or --data.test-split, or other data to train on"
        )
    return kept, notes
