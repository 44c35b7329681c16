"""Five-sentence stories, read strictly, with a fixed split.

Reads two CSV layouts (ROCStories, Story Cloze) with several separators, the embedded stories, and
the same columns from the Hugging Face hub, and splits them. A malformed row is refused with file,
line and column, never skipped or repaired. Two exceptions: a byte-order mark and blank lines are
skipped, and white space inside a cell is folded to single spaces, because a line break within a
sentence would end it in a prompt.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import NoReturn

from gfn_ray.config import DataConfig
from gfn_ray.data.columns import Columns, refuse_missing
from gfn_ray.data.files import folded, raw_lines
from gfn_ray.data.hash_split import place
from gfn_ray.data.hub import Table, load_tables, load_test_table
from gfn_ray.data.leakage import kept_apart, same_text, without_leaks
from gfn_ray.errors import UserError, shown

SENTENCES = 5
ROC_SENTENCES = tuple(f"sentence{i}" for i in range(1, SENTENCES + 1))
ROC_COLUMNS = ("storyid", "storytitle", *ROC_SENTENCES)
CLOZE_CONTEXT = tuple(f"InputSentence{i}" for i in range(1, SENTENCES))
CLOZE_ENDINGS = {"1": "RandomFifthSentenceQuiz1", "2": "RandomFifthSentenceQuiz2"}
CLOZE_ANSWER = "AnswerRightEnding"
CLOZE_COLUMNS = ("InputStoryid", *CLOZE_CONTEXT, *CLOZE_ENDINGS.values(), CLOZE_ANSWER)
EMBEDDED = "stories.csv"
# By their names in messages. If several fit a header equally well, the first is used.
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "vertical bar": "|"}


@dataclass(frozen=True)
class Story:
    """A title (empty if the source has none) and five sentences."""

    story_id: str
    title: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Splits:
    """notes: remarks for people on how the splits were made."""

    train: list[Story]
    validation: list[Story]
    test: list[Story]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Row:
    """Cells by column, and their location for messages."""

    where: str
    cells: Mapping[str, str]


def load_splits(config: DataConfig) -> Splits:
    """Loads training, validation and test stories, none of which is in two parts.

    Raises UserError if a source is malformed. With a separate test source, the test part of the
    other stories is used for training, too.
    """
    columns = Columns.of(config)
    parts = split(_load(config, columns))
    train, test = parts.train, parts.test
    if config.has_test:
        train, test = [*train, *test], _load_test(config, columns)
    columns.check_all_found()
    validation, notes = without_leaks("validation", parts.validation, train, _content, "story")
    keep = kept_apart if config.has_test else partial(without_leaks, "test")
    test, more = keep(test, [*train, *validation], _content, "story")
    return Splits(train, validation, test, (*notes, *more))


def load_stories(config: DataConfig) -> list[Story]:
    """Loads all stories of the configured source, in order; raises UserError if it is malformed."""
    return _load(config, Columns.of(config))


def _load(config: DataConfig, columns: Columns) -> list[Story]:
    """Loads the stories that are not a separate test source."""
    if config.hub is not None:
        return stories_from_tables(load_tables(config), config.hub, columns)
    if config.path is not None:
        return _load_file(config.path, "--data.path", columns)
    embedded = resources.files("gfn_ray.data") / EMBEDDED
    if not embedded.is_file():
        raise UserError(
            f"this installation lacks gfn_ray/data/{EMBEDDED}; reinstall it, or give --data.path"
        )
    return _parse_csv(embedded.read_bytes().splitlines(keepends=True), EMBEDDED, Columns({}))


def _load_test(config: DataConfig, columns: Columns) -> list[Story]:
    """Loads the separate test source, with ids that no other story has."""
    if config.test_path is not None:
        stories = _load_file(config.test_path, "--data.test-path", columns)
    else:
        stories = stories_from_tables(load_test_table(config), str(config.hub), columns)
    return [replace(story, story_id=f"test-{story.story_id}") for story in stories]


def _load_file(path: Path, setting: str, columns: Columns) -> list[Story]:
    return _parse_csv(raw_lines(path, setting), str(path), columns)


def _content(story: Story) -> str:
    return same_text(" ".join(story.sentences))


def split(stories: Iterable[Story], fractions: Sequence[float] = (0.7, 0.1, 0.2)) -> Splits:
    """Splits into train, validation and test, each in the order given.

    A story's part depends on its id alone: SHA-256 of the id, as a number in [0, 1), is
    below the first fraction (train), below the sum of the first two (validation), or above
    (test). So it is the same on every machine, in every run, and whatever else the file
    contains; the fractions hold on average.
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


def _parse_csv(raw: Iterable[bytes], name: str, columns: Columns) -> list[Story]:
    text = _text(raw)
    first = list(_up_to_header(text))
    separator = _separator(first, columns)
    lines = _csv_lines(chain(first, text), name, SEPARATORS[separator])
    where, header = next(lines, ("", []))
    if not header:
        raise UserError(f"{name} is empty; expected a CSV file with a header line")
    found = [_checked(cell, where, f"number {i}") for i, cell in enumerate(header, 1)]
    layout = _layout(found, where, columns, separator)
    names = columns.expected(found)
    rows = (_row(where, names, cells, separator) for where, cells in lines)
    return _collect(layout, rows, name)


def _up_to_header(text: Iterator[str]) -> Iterator[str]:
    """Yields the first lines, up to one that is not blank."""
    for line in text:
        yield line
        if line.strip():
            return


def _separator(first: Sequence[str], columns: Columns) -> str:
    """Returns the separator with which the header has the most of a layout's columns, or the most
    columns if it has none of them. No header has all of them with two separators."""

    def lacking(name: str) -> tuple[int, int]:
        try:
            header = next(csv.reader(first[-1:], delimiter=SEPARATORS[name], strict=True), [])
        except csv.Error:  # such as a cell that continues on the next line
            header = []
        found = columns.expected([cell.strip() for cell in header])
        return min(len(set(layout.columns) - set(found)) for layout in LAYOUTS), -len(found)

    return min(SEPARATORS, key=lacking)


def _text(raw: Iterable[bytes]) -> Iterator[str]:
    """Yields lines as text, also those that end in a carriage return.

    Undecodable bytes become lone surrogates, which valid UTF-8 never contains, so that they can be
    reported by line and column after the cells are parsed.
    """
    for line in raw:
        yield from io.StringIO(line.decode("utf-8", "surrogateescape"), newline="")


def _csv_lines(text: Iterator[str], name: str, separator: str) -> Iterator[tuple[str, list[str]]]:
    """Yields records that are not blank, each with the line it starts on."""
    reader = csv.reader(text, delimiter=separator, strict=True)
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


def _row(where: str, columns: Sequence[str], cells: Sequence[str], separator: str) -> _Row:
    if len(cells) < len(columns):
        _refuse(where, columns[len(cells)], f"missing: {len(cells)} cells; expected {len(columns)}")
    if len(cells) > len(columns):
        what = f"surplus: {len(cells)} cells, expected {len(columns)}; is a {separator} unquoted?"
        _refuse(where, f"number {len(columns) + 1}", what)
    checked = {
        column: _checked(cell, where, column) for column, cell in zip(columns, cells, strict=True)
    }
    return _Row(where, checked)


def _checked(cell: str, where: str, column: str) -> str:
    """Returns the cell with white space folded; refuses bytes that are not text."""
    return folded(cell, f"{where}, column {column}")


def _roc_story(row: _Row) -> Story:
    sentences = tuple(_filled(row, column) for column in ROC_SENTENCES)
    return Story(_filled(row, "storyid"), row.cells["storytitle"], sentences)


def _cloze_story(row: _Row) -> Story:
    answer = row.cells[CLOZE_ANSWER]
    if answer not in CLOZE_ENDINGS:
        _refuse(row.where, CLOZE_ANSWER, f"expected 1 or 2, got {shown(answer)}; fix it there")
    endings = {key: _filled(row, column) for key, column in CLOZE_ENDINGS.items()}
    context = tuple(_filled(row, column) for column in CLOZE_CONTEXT)
    return Story(_filled(row, "InputStoryid"), "", (*context, endings[answer]))


@dataclass(frozen=True)
class _Layout:
    """A set of columns, the id first, and the function that makes a story of a row."""

    columns: tuple[str, ...]
    story: Callable[[_Row], Story]


LAYOUTS = (_Layout(ROC_COLUMNS, _roc_story), _Layout(CLOZE_COLUMNS, _cloze_story))


def _layout(
    found: Sequence[str], where: str, columns: Columns, separator: str | None = None
) -> _Layout:
    """Returns the layout whose columns are all present; further columns are ignored.

    separator: its name, for a file.
    """
    repeated = sorted({column for column in found if found.count(column) > 1})
    if repeated:
        raise UserError(
            f"{where}: columns named twice: {', '.join(map(shown, repeated))}; rename one"
        )
    names = columns.expected(found)
    layout = min(LAYOUTS, key=lambda layout: len(set(layout.columns) - set(names)))
    if missing := [column for column in layout.columns if column not in names]:
        between = f" with a {separator} between them" if separator else ""
        refuse_missing(
            where,
            "column",
            missing,
            found,
            f"{between}, and expected those of ROCStories ({', '.join(ROC_COLUMNS)}) or of Story "
            f"Cloze ({', '.join(CLOZE_COLUMNS)})",
        )
    return layout


def _filled(row: _Row, column: str) -> str:
    return row.cells[column] or _refuse(row.where, column, "empty; fill it")


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
                f"{shown(story.story_id)} is already used in {first}; each story needs its own",
            )
        seen[story.story_id] = row.where
        stories.append(story)
    if not stories:
        raise UserError(f"{name} holds no story, only a header; add rows below it")
    return stories


def stories_from_tables(tables: Mapping[str, Table], name: str, columns: Columns) -> list[Story]:
    """Returns the stories of all tables together: `split` decides the parts, not the hub."""
    layouts = [
        _layout(table.column_names, f"{name}, {part}", columns) for part, table in tables.items()
    ]
    if not layouts or len(set(layouts)) > 1:
        raise UserError(f"--data.hub: {name} mixes layouts or has no tables")
    rows = (
        _hub_row(f"{name}, {part}, row {number}", layouts[0].columns, columns.row(cells))
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
            _refuse(where, column, f"expected text, got {type(cell).__name__}; fix it there")
        texts[column] = _checked(cell, where, column)
    return _Row(where, texts)
