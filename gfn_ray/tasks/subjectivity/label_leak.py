"""Detection of texts that leak the label, whatever their tokens."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gfn_ray.trajectory import IntArray


@dataclass(frozen=True)
class LabelLeakFilter:
    """Whether a text has one of the stems, in any case and with marks or hyphens between.

    stems: as `plain_letters` returns them. token_texts: text of every token id, within a text.
    """

    stems: tuple[str, ...]
    token_texts: Sequence[str]

    @staticmethod
    def of(stems: Iterable[str], token_texts: Sequence[str]) -> LabelLeakFilter:
        return LabelLeakFilter(tuple(sorted(set(map(plain_letters, stems)))), token_texts)

    def __call__(self, token_ids: IntArray) -> bool:
        return self.in_text("".join(self.token_texts[token] for token in token_ids))

    def in_text(self, text: str) -> bool:
        """The same for a text."""
        plain = plain_letters(text)
        return any(stem in plain for stem in self.stems)


def plain_letters(text: str) -> str:
    """Keeps case-folded letters, digits and single spaces: "Sub-JECTIVE" is "subjective"."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c for c in folded if c.isalnum() or c.isspace()).split())
