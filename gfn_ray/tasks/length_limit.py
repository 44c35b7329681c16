"""Handling of texts that are too long for a model or its prompt.

Implements data.too_long: such a text ends the run before it starts, or is left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice

from gfn_ray.config import SamplerConfig, TooLong
from gfn_ray.errors import UserError
from gfn_ray.formatting import count
from gfn_ray.trajectory import Query


class LengthLimit:
    """Accepts texts up to a limit in tokens, and counts the others."""

    def __init__(
        self, noun: str, limit: int | None, whose: str, too_long: TooLong, part: str = ""
    ) -> None:
        """noun: what a text is called, as in "story". limit: in tokens, or None. whose: what sets
        it, as in "sampler.max_prompt_tokens allows". part: the part of the text that is measured,
        as in "the prompt of "; empty for all of it."""
        self._noun = noun
        self._limit = limit
        self._whose = whose
        self._too_long = too_long
        self._part = part
        self._skipped: dict[str, int] = {}

    @classmethod
    def of_prompts(cls, noun: str, sampler: SamplerConfig, too_long: TooLong) -> LengthLimit:
        """Returns the limit of the sampling engine on prompts."""
        whose = "sampler.max_prompt_tokens allows"
        return cls(noun, sampler.max_prompt_tokens, whose, too_long, "the prompt of ")

    def takes(self, name: str, tokens: int) -> bool:
        """Whether a text fits. Raises UserError if not, unless such texts are skipped.

        name: unique to the text; a text asked about twice is counted once.
        """
        if self._limit is None or tokens <= self._limit:
            return True
        if self._too_long == "refuse":
            raise UserError(
                f"{self._part}{self._noun} {name!r} has {tokens:,} tokens; {self._whose} "
                f"{self._limit:,}; change that, or leave such texts out by --data.too-long skip"
            )
        self._skipped[name] = tokens
        return False

    def takes_prompt(self, query: Query) -> bool:
        return self.takes(query.query_id, len(query.prompt_ids))

    def fitting(self, queries: Iterable[Query], most: int | None = None) -> list[Query]:
        """Returns the first `most` queries whose prompts fit, without reading further ones."""
        return list(islice(filter(self.takes_prompt, queries), most))

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence on the texts left out so far, if any."""
        if not self._skipped:
            return ()
        each = f"{self._part}each" if self._part else "each"
        return (
            f"{count(len(self._skipped), self._noun)} left out because {each} has more tokens than "
            f"{self._whose}, {self._limit:,}; the longest has {max(self._skipped.values()):,}",
        )

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Context in which an error about too few texts also says what was left out."""
        try:
            yield
        except UserError as error:
            raise UserError("; ".join([str(error), *self.notes])) from None
