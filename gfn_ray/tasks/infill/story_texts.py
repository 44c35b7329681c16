"""Whole stories as token ids, on which a base model is tuned before infilling."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

from gfn_ray.config import DataConfig
from gfn_ray.data.stories import Story, load_splits
from gfn_ray.errors import UserError
from gfn_ray.models.tokenization import text_ids
from gfn_ray.tasks.length_limit import LengthLimit
from gfn_ray.trajectory import IntArray


class BaseTexts(NamedTuple):
    """Token ids of whole texts: to tune a base model on, and to measure its perplexity on.

    notes: remarks for people, one line each.
    """

    train: list[IntArray]
    validation: list[IntArray]
    notes: tuple[str, ...] = ()


@runtime_checkable
class TunesBase(Protocol):
    """A task whose base model can first be tuned on texts of its data."""

    def base_texts(self, tokenizer: Any, positions: int | None) -> BaseTexts:
        """positions: the longest text that the model reads, in tokens; None if it does not say."""
        ...


def story_texts(config: DataConfig, tokenizer: Any, positions: int | None) -> BaseTexts:
    """Returns training and validation stories of infilling, in natural order; no test stories.

    positions: the longest text that the model reads, in tokens; None if it does not say. Raises
    UserError for a longer story, unless data.too_long is skip, and if none is left to train on.
    """
    splits = load_splits(config)
    room = LengthLimit("story", positions, "the model of model.name reads", config.too_long)

    def ids_of(part: list[Story]) -> list[IntArray]:
        texts = ((s.story_id, text_ids(tokenizer, " ".join(s.sentences))) for s in part)
        return [ids for name, ids in texts if room.takes(name, len(ids))]

    train, validation = ids_of(splits.train), ids_of(splits.validation)
    with room.blamed():
        if not train:
            raise UserError("none of the stories falls into the training split; give more")
    return BaseTexts(train, validation, (*splits.notes, *room.notes))
