"""Prompts to be continued: read from a text file, the hub, or the embedded stories.

Owns what a prompt is and into which part it falls. White space is folded and blank lines are
passed over; anything else that is no text is refused with its line. Does not own tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from gfn_ray.config import DataConfig, PromptDataConfig
from gfn_ray.data.files import folded, text_lines
from gfn_ray.data.hub import Table, load_tables
from gfn_ray.data.placement import place
from gfn_ray.data.stories import load_stories, split
from gfn_ray.errors import UserError

TRAIN_SHARE = 0.8
STORY_SENTENCES = 2  # of an embedded story; the next one is the reference


@dataclass(frozen=True)
class Prompt:
    """A text, and the sentence that follows it in the data; empty where that is unknown."""

    prompt_id: str
    text: str
    following: str = ""


def load_prompts(config: PromptDataConfig) -> tuple[list[Prompt], list[Prompt]]:
    """Those to train on and those held out, among the first `limit` of the configured source.

    An embedded story is where the stories' own split puts it. Other prompts are split by their
    text alone, so that equal ones stay together, 8 in 10 for training on average; on every
    machine and whatever else the data holds.
    """
    if config.hub is None and config.path is None:
        return _of_stories(config.limit)
    if config.hub is not None:
        found = _of_tables(load_tables(config.hub), config.hub, config.column)
    elif config.path is not None:
        found = _of_file(config.path)
    prompts = list(islice(found, config.limit))
    if not prompts:
        raise UserError(
            f"{config.hub or config.path} holds no prompt; give one a line, or a cell of the hub's "
            "--data.column"
        )
    parts: tuple[list[Prompt], list[Prompt]] = ([], [])
    for prompt in prompts:
        parts[place(prompt.text) >= TRAIN_SHARE].append(prompt)
    return parts


def _of_stories(limit: int) -> tuple[list[Prompt], list[Prompt]]:
    splits = split(load_stories(DataConfig())[:limit])
    train, held_out = (
        [
            Prompt(
                story.story_id,
                " ".join(story.sentences[:STORY_SENTENCES]),
                story.sentences[STORY_SENTENCES],
            )
            for story in part
        ]
        for part in (splits.train, splits.test)
    )
    return train, held_out


def _of_file(path: Path) -> Iterator[Prompt]:
    for number, (where, text) in enumerate(text_lines(path, "--data.path"), 1):
        yield from _prompt(text, where, f"line-{number}")


def _of_tables(tables: Mapping[str, Table], name: str, column: str) -> Iterator[Prompt]:
    for part, table in tables.items():
        if column not in table.column_names:
            raise UserError(
                f"--data.column: {name}, {part}, has no column {column!r}; it has "
                f"{', '.join(table.column_names)}"
            )
        for number, cells in enumerate(table, 1):
            cell = cells[column]
            where = f"{name}, {part}, row {number}, column {column}"
            if not isinstance(cell, str):
                raise UserError(f"{where}: expected text, got {type(cell).__name__}")
            yield from _prompt(cell, where, f"{part}-{number}")


def _prompt(text: str, where: str, prompt_id: str) -> Iterator[Prompt]:
    if clean := folded(text, where):
        yield Prompt(prompt_id, clean)
