"""Five-sentence stories: read strictly, split for good.

Owns the two CSV layouts (ROCStories, Story Cloze), the embedded stories, the same columns
from the Hugging Face hub, and the split. A malformed row is refused with file, line and
column, never skipped or mended. Two liberties: a byte-order mark and blank lines are
passed over, and white space inside a cell is folded to single spaces, because a line break
within a sentence would end it in a prompt.

Does not own prompts or tokens.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import NoReturn

from gfn_ray.config import DataConfig
from gfn_ray.data.files import folded, raw_lines
from gfn_ray.data.hub import Table, load_tables
from gfn_ray.data.placement import place
from gfn_ray.errors import UserError, shown

SENTENCES = 5
ROC_SENTENCES = tuple(f"sentence{i}" for i in range(1, SENTENCES + 1))
ROC_COLUMNS = ("storyid", "storytitle", *ROC_SENTENCES)
CLOZE_CONTEXT = tuple(f"InputSentence{i}" for i in range(1, SENTENCES))
CLOZE_ENDINGS = {"1": "RandomFifthSentenceQuiz1", "2": "RandomFifthSentenceQuiz2"}
CLOZE_ANSWER = "AnswerRightEnding"
CLOZE_COLUMNS = ("InputStoryid", *CLOZE_CONTEXT, *CLOZE_ENDINGS.values(), CLOZE_ANSWER)
EMBEDDED = "stories.csv"


@dataclass(frozen=True)
class Story:
    """A title (empty where the source has none) and five sentences."""

    story_id: str
    title: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Splits:
    train: list[Story]
    validation: list[Story]
    test: list[Story]


@dataclass(frozen=True)
class _Row:
    """Cells by column, and where they stand, for messages."""

    where: str
    cells: Mapping[str, str]


def load_stories(config: DataConfig) -> list[Story]:
    """All stories of the configured source, in its order; UserError where it is malformed."""
    if config.hub is not None:
        return _load_hub(config.hub)
    if config.path is not None:
        return _parse_csv(raw_lines(config.path, "--data.path"), str(config.path))
    embedded = resources.files("gfn_ray.data") / EMBEDDED
    if not embedded.is_file():
        raise UserError(
            f"this installation lacks gfn_ray/data/{EMBEDDED}; reinstall it, or give --data.path"
        )
    return _parse_csv(embedded.read_bytes().splitlines(keepends=True), EMBEDDED)


def split(stories: Iterable[Story], fractions: Sequence[float] = (0.7, 0.1, 0.2)) -> Splits:
    """Train, validation and test, each in the order given.

    A story's part follows from its id alone: SHA-256 of the id, read as a number in [0, 1),
    falls below the first fraction (train), below the first two (validation), or above
    (test). So it is the same on every machine, in every run, and whatever else the file
    holds; the fractions are met on average.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"fractions must be three shares that sum to 1, got {tuple(fractions)}")
    train, validation, _ = fractions
    parts = Splits([], [], [])
    for story in stories:
        where = place(story.story_id)
        if where < train:
            parts.train.append(story)
        elif where < train + validation:
            parts.validation.append(story)
        else:
            parts.test.append(story)
    return parts


def _parse_csv(raw: Iterable[bytes], name: str) -> list[Story]:
    lines = _csv_lines(_text(raw), name)
    where, header = next(lines, ("", []))
    if not header:
        raise UserError(f"{name} is empty; expected a CSV file with a header line")
    columns = [_checked(cell, where, f"number {i}") for i, cell in enumerate(header, 1)]
    layout = _layout(columns, where)
    return _collect(layout, (_row(where, columns, cells) for where, cells in lines), name)


def _text(raw: Iterable[bytes]) -> Iterator[str]:
    """Lines as text, those that end in a carriage return among them.

    Undecodable bytes become lone surrogates, which no valid UTF-8 holds, so that they can be
    reported by line and column once the cells are apart.
    """
    for line in raw:
        yield from io.StringIO(line.decode("utf-8", "surrogateescape"), newline="")


def _csv_lines(text: Iterator[str], name: str) -> Iterator[tuple[str, list[str]]]:
    """Records that are not blank, each with the line it starts on."""
    reader = csv.reader(text, strict=True)
    while True:
        where = f"{name}, line {reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"{where}: not valid CSV: {error}; is a quote left open, or not doubled "
                "within a text?"
            ) from None
        if cells:
            yield where, cells


def _row(where: str, columns: Sequence[str], cells: Sequence[str]) -> _Row:
    if len(cells) < len(columns):
        _refuse(where, columns[len(cells)], f"missing: {len(cells)} cells, expected {len(columns)}")
    if len(cells) > len(columns):
        what = f"surplus: {len(cells)} cells, expected {len(columns)}; is a comma unquoted?"
        _refuse(where, f"number {len(columns) + 1}", what)
    checked = {
        column: _checked(cell, where, column) for column, cell in zip(columns, cells, strict=True)
    }
    return _Row(where, checked)


def _checked(cell: str, where: str, column: str) -> str:
    """The cell with white space folded; refused where its bytes are no text."""
    return folded(cell, f"{where}, column {column}")


def _roc_story(row: _Row) -> Story:
    sentences = tuple(_filled(row, column) for column in ROC_SENTENCES)
    return Story(_filled(row, "storyid"), row.cells["storytitle"], sentences)


def _cloze_story(row: _Row) -> Story:
    answer = row.cells[CLOZE_ANSWER]
    if answer not in CLOZE_ENDINGS:
        _refuse(row.where, CLOZE_ANSWER, f"expected 1 or 2, got {shown(answer)}")
    endings = {key: _filled(row, column) for key, column in CLOZE_ENDINGS.items()}
    context = tuple(_filled(row, column) for column in CLOZE_CONTEXT)
    return Story(_filled(row, "InputStoryid"), "", (*context, endings[answer]))


@dataclass(frozen=True)
class _Layout:
    """A set of columns, the id first, and how a row of them becomes a story."""

    columns: tuple[str, ...]
    story: Callable[[_Row], Story]


LAYOUTS = (_Layout(ROC_COLUMNS, _roc_story), _Layout(CLOZE_COLUMNS, _cloze_story))


def _layout(columns: Sequence[str], where: str) -> _Layout:
    """The layout whose columns are all there; further columns are ignored."""
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise UserError(f"{where}: columns named twice: {', '.join(map(shown, repeated))}")
    layout = min(LAYOUTS, key=lambda layout: len(set(layout.columns) - set(columns)))
    missing = [column for column in layout.columns if column not in columns]
    if missing:
        raise UserError(
            f"{where}: missing columns {', '.join(missing)}; expected those of ROCStories "
            f"({', '.join(ROC_COLUMNS)}) or of Story Cloze ({', '.join(CLOZE_COLUMNS)})"
        )
    return layout


def _filled(row: _Row, column: str) -> str:
    return row.cells[column] or _refuse(row.where, column, "empty")


def _refuse(where: str, column: str, what: str) -> NoReturn:
    raise UserError(f"{where}, column {column}: {what}")


def _collect(layout: _Layout, rows: Iterable[_Row], name: str) -> list[Story]:
    stories: list[Story] = []
    seen: dict[str, str] = {}
    for row in rows:
        story = layout.story(row)
        if story.story_id in seen:
            first = seen[story.story_id]
            _refuse(
                row.where,
                layout.columns[0],
                f"{shown(story.story_id)} also stands in {first}; each story needs its own",
            )
        seen[story.story_id] = row.where
        stories.append(story)
    if not stories:
        raise UserError(f"{name} holds no story, only a header; add rows below it")
    return stories


def _load_hub(hub: str) -> list[Story]:
    return stories_from_tables(load_tables(hub), hub)


def stories_from_tables(tables: Mapping[str, Table], name: str) -> list[Story]:
    """Stories of all the tables together: `split` decides the parts, not the hub."""
    layouts = [_layout(table.column_names, f"{name}, {part}") for part, table in tables.items()]
    if not layouts or len(set(layouts)) > 1:
        raise UserError(f"--data.hub: {name} mixes layouts or has no table at all")
    rows = (
        _hub_row(f"{name}, {part}, row {number}", layouts[0].columns, cells)
        for part, table in tables.items()
        for number, cells in enumerate(table, 1)
    )
    return _collect(layouts[0], rows, name)


def _hub_row(where: str, columns: Sequence[str], cells: Mapping[str, object]) -> _Row:
    texts = {}
    for column in columns:
        cell = cells[column]
        if column == CLOZE_ANSWER and isinstance(cell, int):  # the hub types its columns
            cell = str(cell)
        if not isinstance(cell, str):
            _refuse(where, column, f"expected text, got {type(cell).__name__}")
        texts[column] = _checked(cell, where, column)
    return _Row(where, texts)
