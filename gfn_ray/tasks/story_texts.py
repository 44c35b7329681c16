"""Whole stories as token ids: what a base model is tuned on, ahead of infilling."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

from gfn_ray.config import DataConfig
from gfn_ray.data.stories import Story, load_stories, split
from gfn_ray.errors import UserError
from gfn_ray.models.spelling import text_ids
from gfn_ray.trajectory import IntArray


class BaseTexts(NamedTuple):
    """Token ids of whole texts: to tune a base model on, and to measure its perplexity on."""

    train: list[IntArray]
    validation: list[IntArray]


@runtime_checkable
class TunesBase(Protocol):
    """A task whose base model can be tuned on texts of its data, before all else."""

    def base_texts(self, tokenizer: Any, positions: int | None) -> BaseTexts:
        """positions: the longest text in tokens that the model reads, if it says so."""
        ...


def story_texts(config: DataConfig, tokenizer: Any, positions: int | None) -> BaseTexts:
    """Training and validation stories of infilling, in their natural order; no test story.

    positions: the longest text in tokens that the model reads, if it says so. Raises UserError
    for a longer story.
    """
    splits = split(load_stories(config))
    parts = (splits.train, splits.validation)
    return BaseTexts(*([_token_ids(s, tokenizer, positions) for s in part] for part in parts))


def _token_ids(story: Story, tokenizer: Any, positions: int | None) -> IntArray:
    ids = text_ids(tokenizer, " ".join(story.sentences))
    if positions is not None and len(ids) > positions:
        raise UserError(
            f"story {story.story_id!r} has {len(ids)} tokens, and the model of model.name reads "
            f"{positions}; leave the story out or choose another model.name"
        )
    return ids
