"""Prompts to continue: read from a text file, the hub, or the embedded stories.

Defines what a prompt is and the split it belongs to. White space is folded and blank lines are
ignored; anything that is not text is refused with its line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from gfn_ray.config import DataConfig
from gfn_ray.data.columns import Columns, refuse_missing
from gfn_ray.data.files import folded, text_lines
from gfn_ray.data.hash_split import place
from gfn_ray.data.hub import Table, load_tables, load_test_table
from gfn_ray.data.leakage import kept_apart, same_text
from gfn_ray.data.stories import load_stories, split
from gfn_ray.errors import UserError
from gfn_ray.tasks.continuation.config import PromptDataConfig

TRAIN_SHARE = 0.8
COLUMN = "text"
STORY_SENTENCES = 2  # of an embedded story; the next one is the demonstration


@dataclass(frozen=True)
class Prompt:
    """A text, and the sentence that follows it in the data; empty if unknown."""

    prompt_id: str
    text: str
    following: str = ""


@dataclass(frozen=True)
class Splits:
    """notes: remarks for people on how the splits were made."""

    train: list[Prompt]
    held_out: list[Prompt]
    notes: tuple[str, ...] = ()


def load_prompts(config: PromptDataConfig) -> Splits:
    """Loads training and held-out prompts, among the first `limit` of the configured source.

    Embedded stories keep their own split. Other prompts are split by their text alone, 8 in 10 for
    training on average, so that equal ones stay together on every machine and whatever else the
    data contain. With a separate test source, all others are for training, and the test has none
    of them.
    """
    columns = Columns.of(config)
    if config.hub is None and config.path is None:
        parts = _of_stories(config.limit)
    else:
        if config.hub is not None:
            found = _of_tables(load_tables(config), config.hub, columns)
        elif config.path is not None:
            found = _of_file(config.path, "--data.path")
        parts = _split(_first(found, config.limit, config.hub or config.path))
    if config.has_test:
        train = [*parts.train, *parts.held_out]
        test = _load_test(config, columns)
        parts = Splits(train, *kept_apart(test, train, lambda one: same_text(one.text), "prompt"))
    columns.check_all_found()
    return parts


def _load_test(config: PromptDataConfig, columns: Columns) -> list[Prompt]:
    """Loads the separate test source, with ids that no other prompt has."""
    if config.test_path is not None:
        found = _of_file(config.test_path, "--data.test-path")
    else:
        found = _of_tables(load_test_table(config), str(config.hub), columns)
    test = _first(found, config.limit, config.test_path or config.hub)
    return [replace(one, prompt_id=f"test-{one.prompt_id}") for one in test]


def _first(found: Iterator[Prompt], limit: int, source: Path | str | None) -> list[Prompt]:
    prompts = list(islice(found, limit))
    if not prompts:
        raise UserError(
            f"{source} holds no prompt; give one per line, or per cell of the hub's column {COLUMN}"
        )
    return prompts


def _split(prompts: list[Prompt]) -> Splits:
    parts = Splits([], [])
    for prompt in prompts:
        held_out = place(prompt.text) >= TRAIN_SHARE
        (parts.held_out if held_out else parts.train).append(prompt)
    return parts


def _of_stories(limit: int) -> Splits:
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
    return Splits(train, held_out)


def _of_file(path: Path, setting: str) -> Iterator[Prompt]:
    for number, (where, text) in enumerate(text_lines(path, setting), 1):
        yield from _prompt(text, where, f"line-{number}")


def _of_tables(tables: Mapping[str, Table], name: str, columns: Columns) -> Iterator[Prompt]:
    for part, table in tables.items():
        names = columns.expected(table.column_names)
        if COLUMN not in names:
            refuse_missing(f"{name}, {part}", "column", [COLUMN], table.column_names)
        column = table.column_names[names.index(COLUMN)]
        for number, cells in enumerate(table, 1):
            cell = cells[column]
            where = f"{name}, {part}, row {number}, column {column}"
            if not isinstance(cell, str):
                raise UserError(f"{where}: expected text, got {type(cell).__name__}")
            yield from _prompt(cell, where, f"{part}-{number}")


def _prompt(text: str, where: str, prompt_id: str) -> Iterator[Prompt]:
    if clean := folded(text, where):
        yield Prompt(prompt_id, clean)
